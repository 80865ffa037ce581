"""The whole table of mutants: every one of them is found out; those that only a test finds out, too."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import line, run

pytestmark = pytest.mark.soak


@pytest.mark.req("NFR-001", "NFR-002")
def test_every_mutant_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    table = []
    for found in run([]):
        table.append(found)
        with capsys.disabled():
            print(f"\n{line(found)}", end="", flush=True)
    assert [(found.name, found.survived) for found in table if not found.by] == []
