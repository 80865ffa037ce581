"""The ledger on a disk that fails at each of its writes in turn: EIO, read-only, full (issue 4, "It must show")."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import storelab as lab

SOURCE = lab.ROOT / "tests/doubles/disk_fault.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: tests/parts.sh installs gcc")
    made = tmp_path_factory.mktemp("fault") / "disk_fault.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, SOURCE, "-ldl"], check=True)
    return made


@pytest.mark.req("FR-004")
@pytest.mark.parametrize("fault", [errno.EIO, errno.EROFS, errno.ENOSPC], ids=errno.errorcode.get)
def test_each_write_that_fails_costs_time_but_never_an_acknowledged_record(
    library: Path, tmp_path: Path, fault: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.process.faulty_ledger", tmp_path, str(fault)],
        env={**os.environ, "LD_PRELOAD": str(library), "HEALCTL_FAULT": str(tmp_path / "fault")},
        cwd=lab.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["faults"] >= 3, told
    assert told["acked"]
    path = tmp_path / "ledger.db"
    assert lab.rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert [row[0] for row in lab.rows(path, "SELECT id FROM incidents ORDER BY id")] == [
        f"inc-{n:06d}" for n in told["acked"]
    ]
    assert lab.rows(path, "SELECT count(*) FROM metrics") == [(len(told["acked"]),)]
