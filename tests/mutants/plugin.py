"""For pytest, as `-p tests.mutants.plugin`: the mutant that the environment names is in place during the whole run.

Each edit that is reached is written into a file, since it may be reached in a process that a test forks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.mutants.edit import Ran, edited
from tests.mutants.kinds import MUTANT, RAN
from tests.mutants.table import MUTANTS


class _Written(Ran):
    def __init__(self, count: int, path: str) -> None:
        super().__init__(count)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def reached(self, index: int) -> None:
        if not self.times[index]:
            os.write(self._fd, f"{index}\n".encode())
        super().reached(index)


@pytest.fixture(scope="session", autouse=True)
def mutated() -> Iterator[None]:
    edits = MUTANTS[os.environ[MUTANT]].edits
    with edited(edits, _Written(len(edits), os.environ[RAN])):
        yield
