"""The house's rules, read from the syntax tree: what may not be written, where, and what to write instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ("supervisor", "probes", "remediators", "tui")
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = {"house": 400, "tests": 600}
# Declarations only, which belong in one place however many there are; test_declarations keeps them so.
DECLARATIONS = {"supervisor/incidents/model.py"}

# The rooms that must give the same answer for the same arguments, for ever (DESIGN §2.5).
PURE = ("supervisor/incidents/", "supervisor/tree/kernel.py", "supervisor/tree/model.py", "supervisor/tree/wording.py",
        "supervisor/units.py", "supervisor/redact.py", "supervisor/visible.py", "supervisor/schema.py",
        "supervisor/transports.py", "probes/schedule.py")  # fmt: skip
IMPURE_MODULES = {
    "asyncio": "decide here, wait in the process around it",
    "io": "take the text as an argument",
    "multiprocess": "effects go out as values",
    "os": "take what you need as an argument",
    "random": "take the random number as an argument",
    "secrets": "take the random number as an argument",
    "select": "decide here, wait in the process around it",
    "shutil": "effects go out as values",
    "socket": "effects go out as values",
    "sqlite3": "effects go out as records",
    "subprocess": "effects go out as values",
    "tempfile": "effects go out as values",
    "threading": "decide here, wait in the process around it",
    "time": "take an Instant as an argument",
    "uuid": "derive ids from what they name, or take them as arguments",
}
# call -> (where it may stand, what to use instead)
CALLS: dict[str, tuple[tuple[str, ...], str]] = {
    "time.time": (("supervisor/clock.py",), "clock.wall_s()"),
    "time.monotonic": (("supervisor/clock.py",), "clock.monotonic_s()"),
    "datetime.now": (("supervisor/clock.py",), "clock.wall_s() and clock.rfc3339()"),
    "datetime.utcnow": ((), "clock.wall_s() and clock.rfc3339()"),
    "os.system": ((), "an argv through remediators.command"),
    "os.popen": ((), "an argv through remediators.command"),
    "os.fork": (
        ("remediators/keeper.py", "supervisor/store/sentry.py", "supervisor/tree/"),
        "a worker of the tree, or remediators.command",
    ),
    "os.execvpe": (("remediators/launcher.py",), "an argv through remediators.command"),
    "os.posix_spawn": ((), "an argv through remediators.command"),
    "os.kill": (("supervisor/crashpoint.py", "supervisor/tree/"), "proc.send_signal: a pid alone may be recycled"),
    "zmq.Context": (("supervisor/sockets.py",), "sockets.new_context()"),
    # The store writes; a probe reads other programs' databases, by the one way that leaves nothing behind (R9).
    "sqlite3.connect": (
        ("supervisor/store/", "supervisor/sqlite_file.py"),
        "supervisor.store.sqlite, through the store; in a probe sqlite_file.open_readonly",
    ),
    "create_subprocess_exec": ((), "remediators.command"),
    "create_subprocess_shell": ((), "an argv through remediators.command"),
    "setsockopt": (("supervisor/sockets.py", "supervisor/tree/"), "sockets.open_socket()"),
}
# subprocess: the hands' one place that starts programs forks by itself; a probe may ask a target's own status command,
# systemctl or pm2, which ends with the question; the notifier hands a message to openclaw or signal-cli, which ends
# with it; the demo starts its sandbox's own two processes; plugins are imported by one that ends with the question.
SUBPROCESS = (
    "remediators/command.py",
    "probes/command.py",
    "supervisor/notifier/program.py",
    "supervisor/cli/demo_box.py",
    "supervisor/examining.py",
)
# Paths of somebody's machine and addresses of somebody's network.
FORBIDDEN_WORDS = re.compile(r"/(?:home|Users|root|work)/[a-z]|--(?:extra-)?index[-]url")


def files(*tops: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for top in tops for path in (ROOT / top).rglob("*.py"))


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(), file)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imports(file: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0]


def is_in(file: str, places: tuple[str, ...]) -> bool:
    return any(file == place or (place.endswith("/") and file.startswith(place)) for place in places)


def faults_of_calls(file: str) -> Iterator[str]:
    for node in ast.walk(tree_of(file)):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        for banned, (places, instead) in CALLS.items():
            if (name == banned or name.endswith("." + banned)) and not is_in(file, places):
                yield f"{file}:{node.lineno}: {banned} may not stand here; use {instead}"
        if any(word.arg == "shell" and getattr(word.value, "value", None) is True for word in node.keywords):
            yield f"{file}:{node.lineno}: shell=True may stand nowhere (R11); use an argv list"


def faults_of_imports(file: str) -> Iterator[str]:
    for line, name in imports(file):
        if name == "subprocess" and not is_in(file, SUBPROCESS):
            yield f"{file}:{line}: only remediators/command.py starts programs, and probes/command.py; use it"
        if is_in(file, PURE) and name in IMPURE_MODULES:
            yield f"{file}:{line}: {name} in a pure room: {IMPURE_MODULES[name]}"


def faults_of_size(file: str) -> Iterator[str]:
    length = len((ROOT / file).read_text().splitlines())
    limit = FILE_LINES_MAX["tests" if file.startswith("tests/") else "house"]
    if length > limit and file not in DECLARATIONS:
        yield f"{file}: {length} lines, at most {limit}; split it by what changes together"
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{file}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


@pytest.mark.req("NFR-001", "R11")
def test_nothing_banned_is_called() -> None:
    assert [fault for file in files(*HOUSE) for fault in faults_of_calls(file)] == []


@pytest.mark.req("NFR-001", "R11")
def test_no_shell_even_in_tests() -> None:
    assert [fault for file in files("tests") for fault in faults_of_calls(file) if "shell=" in fault] == []


def test_nothing_banned_is_imported() -> None:
    assert [fault for file in files(*HOUSE) for fault in faults_of_imports(file)] == []


def test_functions_fit_a_screen_and_files_a_sitting() -> None:
    assert [fault for file in files(*HOUSE, "tests") for fault in faults_of_size(file)] == []


def test_declarations_declare_only() -> None:
    for file in DECLARATIONS:
        long = [
            node.name
            for node in ast.walk(tree_of(file))
            if isinstance(node, ast.FunctionDef) and len(node.body) > 4  # a one-line property is still a declaration
        ]
        assert long == [], f"{file} may be long because it only declares; move {long} elsewhere"


def test_every_module_says_what_it_is_for() -> None:
    without = [file for file in files(*HOUSE) if not (ast.get_docstring(tree_of(file)) or "").strip()]
    assert without == [], f"begin with what the module is for and what it must never do: {without}"


def test_no_paths_of_somebodys_machine() -> None:
    found = []
    texts = [*files(*HOUSE, "tests", "tui"), *(str(p.relative_to(ROOT)) for p in _documents())]
    for file in texts:
        for number, line in enumerate((ROOT / file).read_text().splitlines(), 1):
            if FORBIDDEN_WORDS.search(line):
                found.append(f"{file}:{number}: names a machine of ours: {line.strip()[:80]}")
    assert found == []


def _documents() -> Iterator[Path]:
    yield from (ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "Makefile", "pyproject.toml"))
    yield from (ROOT / "constraints.txt", ROOT / ".ci/run")
    yield from (ROOT / "docs").rglob("*.md")
    yield from (ROOT / "etc").rglob("*.toml")


# --- the rules themselves catch what they are for ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("supervisor/healer.py", "import time\ntime.time()", "clock.wall_s()"),
        ("supervisor/healer.py", "from datetime import datetime\ndatetime.now()", "clock.rfc3339()"),
        ("supervisor/healer.py", "import asyncio\nasyncio.create_subprocess_exec('a')", "remediators.command"),
        ("tests/x.py", "run('a', shell=True)", "argv list"),
        ("supervisor/incidents/engine.py", "import random", "random number as an argument"),
        ("supervisor/incidents/engine.py", "from time import sleep", "Instant"),
        ("probes/process.py", "from subprocess import run", "only remediators/command.py"),
        ("supervisor/notifier/process.py", "import os\nos.kill(1, 9)", "proc.send_signal"),
    ],
)
def test_a_fault_is_found_and_its_replacement_named(
    monkeypatch: pytest.MonkeyPatch, file: str, code: str, fault: str
) -> None:
    monkeypatch.setattr(f"{__name__}.tree_of", lambda _: ast.parse(code))
    found = [*faults_of_calls(file), *faults_of_imports(file)]
    assert len(found) == 1
    assert fault in found[0]
