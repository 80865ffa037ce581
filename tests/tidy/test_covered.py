"""Nothing that people or programs call by its name is without a test: commands, exit codes, metrics. (Keys:
`tests/tui/test_keys.py`.) A new one fails here until the test that runs it is named."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor import errors
from supervisor.cli.main import EXIT_INTERRUPTED
from tests.tidy.test_documents import ROOT, commands

TESTS = ROOT / "tests"
# test file -> the commands that it runs
RUN = {
    "process/test_init.py": ("init", "check"),
    "unit/test_doctor.py": ("doctor",),
    "process/test_install.py": ("install", "uninstall"),
    "process/test_cli_rough.py": ("start", "stop", "status"),
    "acceptance/test_reload.py": ("reload",),
    "acceptance/test_plugin_trouble.py": ("probe",),
    "acceptance/test_sharing.py": ("feed",),
    "tui/test_terminal.py": ("tui",),
    "unit/test_cli.py": ("heal status", "heal list_runbooks", "ack", "stats", "events"),
    "acceptance/test_ac_spine.py": ("heal approve", "heal dry_run", "heal execute", "heal dismiss"),
    "acceptance/test_healing_report.py": ("heal undo", "heal mark", "report", "audit"),
    "acceptance/test_cancel.py": ("heal cancel",),
    "acceptance/test_ac_learning.py": ("heal record_fix", "capture hook", "capture report"),
    "acceptance/test_agents.py": ("heal requests", "heal confirm", "mcp"),
    "acceptance/test_pause.py": ("pause", "resume"),
    "acceptance/test_ac_restore.py": ("db status", "db backup", "db verify", "db restore"),
    "acceptance/test_last_pages.py": ("page",),
    "acceptance/test_drill.py": ("drill",),
    "unit/test_recording.py": ("replay",),
    "unit/test_cli_demo.py": ("demo",),
}
# exit code -> the test file that waits for a program to end with it, and how it says so
EXITS = {
    0: ("process/test_cli_rough.py", '"0 done'),
    1: ("process/test_cli_rough.py", "code == 1"),
    2: ("process/test_cli_rough.py", "2)"),
    3: ("process/test_cli_rough.py", "== 3"),
    4: ("unit/test_cli.py", "== 4"),
    5: ("unit/test_cli.py", "== 5"),
    70: ("process/test_tree_root.py", "root.wait(60) == 70"),
    78: ("process/test_cli_rough.py", "78)"),
    130: ("acceptance/test_drill.py", "command.returncode == 130"),
}


def test_every_command_is_run_by_a_test() -> None:
    named = [command for found in RUN.values() for command in found]
    assert sorted(named) == sorted(commands())
    for file, found in RUN.items():
        text = (TESTS / file).read_text()
        for command in found:
            asked = "capture hook" if command == "capture report" else command  # it is the hook that runs `report`
            words = ", ".join(f'"{word}"' for word in asked.split())
            assert words in text, f"{file} does not run {command}"


def test_every_exit_code_is_waited_for_by_a_test() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HealError)]
    assert set(EXITS) == {0, EXIT_INTERRUPTED, *(kind.exit_code for kind in kinds)}
    for code, (file, words) in EXITS.items():
        assert words in (TESTS / file).read_text(), f"exit code {code}: {file}"


def test_every_metric_is_counted_by_a_test() -> None:
    text = "".join(path.read_text() for path in TESTS.rglob("test_*.py") if path != Path(__file__))
    lines = [line for line in (ROOT / "docs/metrics.md").read_text().splitlines() if line.startswith("| `")]
    named = [name for line in lines for name in re.findall(r"`(heal_\w+)`", line.split("|")[1])]
    assert len(named) > 30
    assert [it for it in named if not re.search(rf"(\b|\\n){it.removesuffix('_total')}(_total)?\b", text)] == []
