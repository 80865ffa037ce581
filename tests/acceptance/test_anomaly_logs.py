"""A log file that nobody rotates, under the real daemon, beside one that is exactly at the limit (FR-001, FR-002)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.daemon import Site

MIB = 1024**2


def fill(path: Path, count: int) -> None:
    """A file that really takes so many bytes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(fd, 0, count)
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.mark.req("FR-001", "FR-002", "FR-004", "R7")
def test_log_bloat_beyond_100_mib_and_its_end(here: Site) -> None:
    big, twin = here.folder / "big", here.folder / "twin"
    big.mkdir()
    twin.mkdir()
    fill(twin / "exact.log", 100 * MIB)
    with (twin / "sparse.log").open("wb") as file:
        file.truncate(300 * MIB)
    fill(twin / "old.log.1", 101 * MIB)
    tables = [f'[logs.{folder.name}]\npaths = ["{folder}/*"]\ninterval = "1s"\n' for folder in (big, twin)]
    daemon = here.daemon("".join(tables))
    daemon.start()
    fill(big / "app.log", 100 * MIB + 1)
    (row,) = daemon.wait_state("big", "resolved")
    assert (row["anomaly_type"], row["severity"]) == ("log_bloat", "medium")
    assert "app.log has 100 MiB; at most 100 MiB are allowed" in row["audit_trail"][0]["note"]
    assert (big / "app.log").stat().st_blocks * 512 < MIB
    assert {row["target_id"] for row in daemon.incidents()} == {"big"}
    daemon.stop()
