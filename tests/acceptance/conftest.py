from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import Site, site


@pytest.fixture
def here() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture
def phone() -> Iterator[SignalDouble]:
    """A double of signal-cli's HTTP daemon: what it received is what would have reached the phone."""
    with SignalDouble() as double:
        yield double


def signal_toml(phone: SignalDouble) -> str:
    return f'[notify.signal]\ntransports = ["{phone.url}"]\naccount = "+15550000001"\nrecipient = "+15550000002"\n'
