"""`healctl db` without a daemon: what it shows from the copies alone, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import backups
from supervisor.backups import Manifest
from supervisor.cli.main import run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "healctl.toml"
    path.write_text(
        f'[healctl]\nstate_dir = "{tmp_path / "state"}"\nruntime_dir = "{tmp_path / "run"}"\n'
        f'[database.trades]\npath = "{tmp_path / "trades.db"}"\n'
    )
    return path


def copy(folder: Path, stamp: str, at: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stamp}.db").write_bytes(b"x")
    told = Manifest("brain-db", "/b", stamp, at, 1, 1, "00", "ok", 0.1, "3.40.1", {"incidents": 4})
    (folder / f"{stamp}.json").write_bytes(msgspec.json.encode(told))


def show(capsys: pytest.CaptureFixture[str], config: Path, *words: str) -> tuple[int, Any, str]:
    code = run(["-c", str(config), *words])
    said = capsys.readouterr()
    return code, msgspec.json.decode(said.out) if said.out.startswith("{") else said.out, said.err


@pytest.mark.req("R10")
def test_status_tells_of_every_database_and_its_copies(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = backups.folder(tmp_path / "state", "brain-db")
    copy(folder, "20260218T093000123Z", "2026-02-18T09:30:00.123Z")
    copy(folder, "20260217T093000123Z", "2026-02-17T09:30:00.123Z")
    (folder / "20260219T093000123Z.db").write_bytes(b"without a manifest it does not count")
    (folder / "20260220T093000123Z.db").write_bytes(b"nor with half of one")
    (folder / "20260220T093000123Z.json").write_bytes(b'{"name":')
    (folder / "damaged-20260218T100000000Z").mkdir()
    code, answer, _ = show(capsys, config, "db", "status", "--json")
    assert (code, answer["daemon"]) == (0, False)
    found = {row["name"]: row for row in answer["databases"]}
    assert set(found) == {"brain-db", "metrics-db", "ledger", "trades"}
    brain = found["brain-db"]
    assert (brain["good_copies"], brain["damaged_copies"], brain["written"]) == (2, 1, True)
    assert (brain["newest_good"], brain["newest_good_rows"]) == ("2026-02-18T09:30:00.123Z", {"incidents": 4})
    assert (brain["bytes"], brain["halted"], brain["at_work"]) == (None, None, "")
    assert (found["trades"]["written"], found["ledger"]["written"]) == (False, False)
    code, table, told = show(capsys, config, "db", "status", "-o", "table")
    assert code == 0
    assert "brain-db    missing  ?" in table
    assert "no daemon answers" in told
    backups.folder(tmp_path / "state", "trades").touch()
    code, _, told = show(capsys, config, "db", "status", "-o", "table")
    assert code == 0
    assert "the copies of trades cannot be looked at" in told


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["backup"], 3),
        (["verify", "trades"], 3),
        (["backup", "nothing"], 4),
        (["restore"], 5),
        (["restore", "--confirm", "--dry-run"], 2),
        (["restore", "--confirm"], 3),
    ],
)
def test_what_it_refuses(config: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int) -> None:
    found, answer, _ = show(capsys, config, "db", *words, *(["--json"]))
    assert found == code
    assert "error" in answer


def test_a_stamp_sorts_by_time() -> None:
    stamps = [backups.stamp(at) for at in (0.0, 1.001, 1.002, 1_771_406_999.9, 1_771_407_000.0)]
    assert stamps == sorted(stamps)
    assert all(backups.STAMP.fullmatch(one) for one in stamps)
