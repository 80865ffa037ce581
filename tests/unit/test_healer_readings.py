"""What the healer's process does with readings before the engine sees them."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.healer import HealerWorker
from supervisor.samples import Samples
from tests.lab.engine import Lab


@pytest.mark.req("R9", "FR-001")
def test_a_reading_that_was_asked_for_comes_twice_and_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that also answers a question is sent as the answer and by itself; three failed checks are an anomaly."""
    lab = Lab("web")
    healer = HealerWorker.__new__(HealerWorker)
    healer._engine = lab.engine
    healer._samples = Samples()
    monkeypatch.setattr(healer, "_decide", lab.feed)
    for number in range(3):
        assert lab.incidents() == [], f"after {number} failed checks"
        failed = lab.unavailable("web")
        twice = msgspec.msgpack.decode(msgspec.msgpack.encode(failed), type=type(failed))
        healer._readings((failed,))
        healer._readings((twice,))
        lab.advance(1)
    assert lab.only("web").anomaly == "probe_unavailable"
