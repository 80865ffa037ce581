"""An operator's own runbooks as they are written: what is taken, and what each fault is called (FR-003, R3, R11)."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from remediators import files, registry
from remediators.runbooks import RUNBOOKS, ladder
from supervisor import config
from supervisor.config import Config
from supervisor.errors import ConfigError
from supervisor.incidents.model import AnomalyType, Effect, Runbook

ROOT = Path(__file__).parents[2]
COMMANDS = """\
[process.web]
pid_file = "/run/web.pid"
[command.purge]
argv = ["/usr/bin/purge", "--all"]
effect = "destroy"
timeout = "90s"
[command.look]
argv = ["sh", "-c", "true"]
effect = "observe"
"""
HEAD = 'id = "rb-mine"\nlabel = "Mine"\napplies_to = ["process_dead"]\n'
STEP = '[[step]]\nkind = "run-command"\ncommand = "purge"\n'
GOOD = HEAD + STEP


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "runbooks.d"
    made.mkdir(mode=0o700)
    return made


def put(folder: Path, text: str | bytes, name: str = "a.toml") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(0o600)
    return file


def load(folder: Path, text: str = COMMANDS) -> Config:
    return config.accept(text, folder.parent / "healctl.toml")


def one(folder: Path, text: str, commands: str = COMMANDS) -> Runbook:
    put(folder, text)
    (book,) = load(folder, commands).runbook.values()
    return book


def faults(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert caught.value.exit_code == 78
    text = str(caught.value)
    assert all(char.isprintable() or char == "\n" for char in text)
    return text


# --- what is taken -------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-003")
def test_a_short_one_takes_its_defaults_from_the_command_and_the_shipped_runbook(folder: Path) -> None:
    book = one(folder, GOOD)
    (step,) = book.steps
    assert (step.step_id, step.effect, step.timeout_s, step.idempotent) == ("run-command", Effect.DESTROY, 90.0, False)
    assert dict(step.params) == {"command": "purge", "argv": ("/usr/bin/purge", "--all"), "effect": "destroy"}
    assert book.resource == RUNBOOKS[0].resource  # it never runs beside rb-restart-service
    assert (book.author, book.starts_service, book.verifies, book.confidence) == ("file:a.toml", False, True, 0.5)
    registry.validate(book)


@pytest.mark.req("FR-003")
def test_a_whole_one(folder: Path) -> None:
    text = (
        'id = "rb-mine"\nlabel = "Mine"\nauthor = "Ann"\napplies_to = ["process_dead", "disk_pressure"]\n'
        'targets = ["web", "disk:/srv"]\nbefore = "rb-restart-service"\nresource = "tree:/srv"\nverifies = false\n'
        'summary = true\n[[step]]\nid = "look"\nkind = "run-command"\ncommand = "look"\neffect = "change"\n'
        'timeout = "1m"\nidempotent = true\n[[step]]\nkind = "stop-service"\n'
        '[[step]]\nkind = "start-service"\nparams = {}\n'
    )
    book = one(folder, text)
    assert (book.author, book.targets, book.before) == ("Ann", ("disk:/srv", "web"), "rb-restart-service")
    assert (book.resource, book.verifies, book.summary) == ("tree:/srv", False, True)
    look, stop, start = book.steps
    assert (look.effect, look.timeout_s, look.idempotent) == (Effect.CHANGE, 60.0, True)
    assert os.path.isabs(dict(look.params)["argv"][0])  # type: ignore[index, arg-type]
    assert (stop.step_id, stop.effect, start.step_id) == ("stop-service", Effect.CHANGE, "start-service")


@pytest.mark.req("FR-003", "R6")
def test_nothing_verifies_one_that_is_for_no_anomaly(folder: Path) -> None:
    """Else a person's order of it would count as failed: no check could ever agree."""
    assert not one(folder, 'id = "rb-mine"\nlabel = "Mine"\nverifies = true\n' + STEP).verifies


@pytest.mark.req("FR-003")
def test_without_a_directory_there_are_none_and_other_files_are_nobodys(folder: Path) -> None:
    put(folder, "x", "README")
    put(folder, "x", ".#a.toml")
    assert load(folder) == config.parse(COMMANDS, "f")
    folder.joinpath("README").unlink()
    folder.joinpath(".#a.toml").unlink()
    folder.rmdir()
    assert load(folder).runbook == {}


@pytest.mark.req("FR-003")
def test_the_directory_can_be_named(folder: Path, tmp_path: Path) -> None:
    put(folder, GOOD)
    elsewhere = tmp_path / "elsewhere/healctl.toml"
    named = config.accept(f'{COMMANDS}[runbooks]\ndir = "{folder}"\n', elsewhere)
    assert list(named.runbook) == ["rb-mine"]
    with pytest.raises(ConfigError, match="cannot be read as a directory of runbooks: No such file"):
        config.accept(f'[runbooks]\ndir = "{tmp_path}/none"\n', elsewhere)


@pytest.mark.req("FR-003")
def test_the_example_is_a_good_runbook(folder: Path) -> None:
    put(folder, (ROOT / "etc/examples/runbook.toml").read_text(), "example.toml")
    commands = "".join(
        f'[command.{name}]\nargv = ["/usr/local/bin/{name}"]\neffect = "{effect}"\n'
        for name, effect in (("save-cache-index", "observe"), ("purge-cache", "destroy"))
    )
    (book,) = load(folder, commands).runbook.values()
    assert [step.step_id for step in book.steps] == ["copy", "purge"]
    assert Runbook.__struct_fields__  # every key of a file is shown in the example
    text = (ROOT / "etc/examples/runbook.toml").read_text()
    for kind in (files.RunbookTable, files.StepTable):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"^(?:# )?(?:\[\[)?{field.encode_name}\b", text, re.MULTILINE), field.encode_name


@pytest.mark.req("FR-003")
def test_the_order_in_which_they_are_tried(folder: Path) -> None:
    put(folder, GOOD, "b.toml")
    put(folder, HEAD.replace("rb-mine", "rb-z") + 'before = "rb-restart-service"\n' + STEP, "a.toml")
    put(folder, HEAD.replace("rb-mine", "rb-y") + 'before = "rb-restart-service"\n' + STEP, "c.toml")
    order = [book.id for book in ladder(load(folder).runbook.values())]
    shipped = [book.id for book in RUNBOOKS]
    at = shipped.index("rb-restart-service")
    assert order == [*shipped[:at], "rb-z", "rb-y", *shipped[at:], "rb-mine"]


# --- versions ------------------------------------------------------------------------------------------------------

SAME = [
    GOOD.replace("\n", "  # why\n"),
    'label = "Mine"\napplies_to = ["process_dead"]\nid = "rb-mine"\n' + STEP,
    HEAD + '[[step]]\ncommand = "purge"\nkind = "run-command"\n',
    HEAD + 'author = "Ann"\n' + STEP,
    GOOD + 'timeout = "1m30s"\neffect = "destroy"\nid = "run-command"\nidempotent = false\nparams = {}\n',
    HEAD + "verifies = true\nsummary = false\ntargets = []\n" + STEP,
    "id = 'rb-mine'\nlabel = '''Mine'''\napplies_to = [\n  'process_dead',\n]\n"
    "step = [{ kind = 'run-command', command = 'purge' }]\n",
]
OTHER = [
    GOOD + 'timeout = "91s"\n',
    GOOD + "idempotent = true\n",
    GOOD + 'id = "x"\n',
    GOOD + STEP + 'id = "again"\n',
    HEAD.replace("Mine", "Ours") + STEP,
    HEAD.replace('"process_dead"', '"process_dead", "process_zombie"') + STEP,
    HEAD + 'targets = ["web"]\n' + STEP,
    HEAD + 'before = "rb-restart-service"\n' + STEP,
    HEAD + 'resource = "tree:/srv"\n' + STEP,
    HEAD + "verifies = false\n" + STEP,
    HEAD + "summary = true\n" + STEP,
    HEAD + STEP.replace("purge", "look"),
]


@pytest.mark.req("FR-003", "NFR-001")
def test_a_version_changes_exactly_when_the_meaning_does(folder: Path) -> None:
    version = one(folder, GOOD).version()
    assert {one(folder, text).version() for text in SAME} == {version}
    others = {one(folder, text).version() for text in OTHER}
    assert len(others) == len(OTHER)
    assert version not in others


@pytest.mark.req("FR-003", "NFR-001", "R11")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"--all"', '"--some"'),
        ('"--all"', '"--all", ""'),
        ("/usr/bin/purge", "/usr/bin/purgf"),
        ('timeout = "90s"', 'timeout = "90s"\ncwd = "/srv"'),
        ('timeout = "90s"', 'timeout = "90s"\nenv = { A = "1" }'),
        ('timeout = "90s"', 'timeout = "90s"\ndescription = "other"'),
        ('timeout = "90s"', 'timeout = "91s"'),
    ],
)
def test_another_command_under_the_same_name_is_another_version(folder: Path, old: str, new: str) -> None:
    assert one(folder, GOOD, COMMANDS.replace(old, new)).version() != one(folder, GOOD).version()
    moved = COMMANDS.replace("[command.look]", "[command.unused]\nargv = ['/x']\neffect = 'observe'\n[command.look]")
    assert one(folder, GOOD, moved).version() == one(folder, GOOD).version()


@pytest.mark.req("FR-003", "R11")
def test_a_bare_program_name_is_looked_up_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/sh"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = HEAD + STEP.replace("purge", "look")
    here = one(folder, text)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    there = one(folder, text)
    assert dict(there.steps[0].params)["argv"][0] == str(program)  # type: ignore[index]
    assert here.version() != there.version()  # it is another program: the approval was not for it
    monkeypatch.setenv("PATH", str(folder))
    assert f'a.toml:6: key step.1.command: its program "sh" is not in {folder}' in faults(folder)


# --- what is refused -----------------------------------------------------------------------------------------------

ESC, LONG = "\\u001b[31m", "x" * 201
# Each: the file, and what must be said of it: line, key, words.
BAD: list[tuple[str, int, str, str]] = [
    ("", 1, "id", "is missing"),
    (STEP, 1, "label", "is missing"),
    (HEAD, 1, "step", "is missing"),
    ('id = ""\n' + GOOD[GOOD.index("label") :], 1, "id", "expected something"),
    (GOOD.replace("rb-mine", "mine"), 1, "id", 'expected an id like "rb-clear-cache"'),
    (GOOD.replace("rb-mine", "rb-"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-Mine"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-" + "a" * 61), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-a b"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-a\\n"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-../../etc"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-$(reboot)"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-'; DROP TABLE runbooks; --"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", ESC), 1, "id", "\\x1b[31m"),
    (GOOD.replace("rb-mine", "rb-\\u202egnp"), 1, "id", "expected an id like"),
    (GOOD.replace("rb-mine", "rb-a\\u0000"), 1, "id", "without a NUL byte"),
    (GOOD.replace('"rb-mine"', "7"), 1, "id", "expected a string"),
    (GOOD.replace("rb-mine", "rb-restart-service"), 1, "id", "comes with healctl and cannot be replaced"),
    (GOOD.replace("rb-mine", "rb-db-emergency"), 1, "id", "comes with healctl and cannot be replaced"),
    (GOOD.replace('"Mine"', "[]"), 2, "label", "expected a string"),
    (GOOD.replace('"Mine"', '""'), 2, "label", "no default"),
    (GOOD.replace("Mine", ESC), 2, "label", "one line of printable text"),
    (GOOD.replace("Mine", "a\\nb"), 2, "label", "one line of printable text"),
    (GOOD.replace("Mine", LONG), 2, "label", "at most 200 characters"),
    (GOOD.replace('["process_dead"]', '"process_dead"'), 3, "applies_to", "a list of strings"),
    (GOOD.replace("process_dead", "proces_dead"), 3, "applies_to", 'did you mean "process_dead"?'),
    (GOOD.replace("process_dead", "*"), 3, "applies_to", "one of process_dead"),
    (GOOD.replace('"process_dead"', "1"), 3, "applies_to", "one of process_dead"),
    (GOOD.replace("process_dead", ESC), 3, "applies_to", "one of process_dead"),
    (GOOD.replace("process_dead", "worker_failing"), 3, "applies_to", "healctl's own parts"),
    (GOOD.replace("process_dead", "backup_overdue"), 3, "applies_to", "healctl's own parts"),
    (GOOD.replace('["process_dead"]', "[" + '"process_dead",' * 101 + "]"), 3, "applies_to", "at most 100"),
    (HEAD + 'targets = ["wep"]\n' + STEP, 4, "targets", 'did you mean "web"?'),
    (HEAD + 'targets = ["nobody:/x"]\n' + STEP, 4, "targets", 'no target "nobody:/x"'),
    (HEAD + f'targets = ["disk:/{ESC}"]\n' + STEP, 4, "targets", "one line of printable text"),
    (HEAD + "targets = true\n" + STEP, 4, "targets", "a list of strings"),
    (HEAD + 'before = "rb-restart-servic"\n' + STEP, 4, "before", 'did you mean "rb-restart-service"?'),
    (HEAD + 'before = "rb-mine"\n' + STEP, 4, "before", "no shipped runbook"),
    (HEAD + 'before = "rb-db-restore"\n' + STEP, 4, "before", "this one is not"),
    (HEAD.replace("process_dead", "db_corruption") + 'before = "rb-db-emergency"\n' + STEP, 4, "before",
     "always comes first"),
    (HEAD.replace('"]', '", "db_corruption"]') + 'before = "rb-restart-service"\n' + STEP, 4, "before",
     "in front of rb-db-emergency"),
    (HEAD + 'resource = "everything"\n' + STEP, 4, "resource", "what is locked"),
    (HEAD + 'resource = "tree:{secret}"\n' + STEP, 4, "resource", "what is locked"),
    (HEAD + 'resource = "tree:{target.__class__}"\n' + STEP, 4, "resource", "what is locked"),
    (HEAD + f'resource = "tree:{ESC}"\n' + STEP, 4, "resource", "one line of printable text"),
    (HEAD + 'author = "healctl"\n' + STEP, 4, "author", "expected who wrote it"),
    (HEAD + 'author = "HealCtl"\n' + STEP, 4, "author", "expected who wrote it"),
    (HEAD + 'author = "file:b.toml"\n' + STEP, 4, "author", "expected who wrote it"),
    (HEAD + f'author = "{ESC}"\n' + STEP, 4, "author", "one line of printable text"),
    (HEAD + "verifies = 1\n" + STEP, 4, "verifies", "expected true or false"),
    (HEAD + 'summary = "yes"\n' + STEP, 4, "summary", "expected true or false"),
    (HEAD + "starts_service = true\n" + STEP, 4, "starts_service", "unknown key"),  # R3 (c) is not for these
    (HEAD + "confidence = 1.0\n" + STEP, 4, "confidence", "unknown key"),
    (HEAD + 'aplies_to = ["disk_pressure"]\n' + STEP, 4, "aplies_to", 'did you mean "applies_to"?'),
    (HEAD + '"\\u001b[31m" = 1\n' + STEP, 1, '"\\x1b[31m"', "unknown key"),
    (HEAD + "[policy]\nauto_execute = ['rb-mine']\n" + STEP, 4, "policy", "unknown table"),
    (HEAD + "[command.purge]\nargv = ['/bin/rm']\n" + STEP, 4, "command", "unknown table"),
    (HEAD + "step = 3\n", 4, "step", "expected tables, each under [[step]]"),
    (HEAD + "step = []\n", 4, "step", "at least 1 entry"),
    (HEAD + "step = [3]\n", 4, "step.1", "expected a table"),
    (HEAD + "[step]\nkind = 'run-command'\n", 4, "step", "expected tables"),
    (HEAD + STEP * 33, 4, "step", 'found "33 entries", expected at most 32'),
    (HEAD + "[[step]]\n", 4, "step.1.kind", "is missing"),
    (GOOD.replace("run-command", "rotate_everything"), 5, "step.1.kind", "no such kind"),
    (GOOD.replace("run-command", "run-comand"), 5, "step.1.kind", 'did you mean "run-command"?'),
    (GOOD.replace("run-command", "shell"), 5, "step.1.kind", "kinds: backup-database"),
    (GOOD.replace("run-command", ESC), 5, "step.1.kind", "one line of printable text"),
    (GOOD.replace('"run-command"', "['run-command']"), 5, "step.1.kind", "expected a string"),
    (GOOD.replace('"purge"', '"prge"'), 6, "step.1.command", 'did you mean "purge"?'),
    (GOOD.replace('"purge"', '"/bin/rm -rf /"'), 6, "step.1.command", "there is no command"),
    (GOOD.replace('"purge"', "['/bin/rm', '-rf', '/']"), 6, "step.1.command", "expected a string"),
    (HEAD + "[[step]]\nkind = 'run-command'\n", 4, "step.1.command", "is missing"),
    (HEAD + "[[step]]\nkind = 'run-command'\nargv = ['/bin/sh']\n", 6, "step.1.argv", "unknown key"),
    (HEAD + "[[step]]\nkind = 'start-service'\ncommand = 'purge'\n", 6, "step.1.command", "has no command"),
    (GOOD + 'params = { argv = ["/bin/rm"] }\n', 7, "step.1.params", "a run-command step has no parameters"),
    (HEAD + "[[step]]\nkind = 'start-service'\nparams = { x = 1 }\n", 6, "step.1.params.x", "unknown field `x`"),
    (HEAD + "[[step]]\nkind = 'start-service'\n[step.params]\nx = 1\n", 7, "step.1.params.x", "unknown field `x`"),
    (HEAD + "[[step]]\nkind = 'start-service'\nparams = { x = 1979-05-27 }\n", 6, "step.1.params.x",
     "expected a string, a number"),
    (HEAD + "[[step]]\nkind = 'start-service'\nparams = { x = { y = 1 } }\n", 6, "step.1.params.x",
     "expected a string, a number"),
    (HEAD + "[[step]]\nkind = 'start-service'\nparams = { x = [1] }\n", 6, "step.1.params.x", "or a list of strings"),
    (HEAD + "[[step]]\nkind = 'start-service'\nparams = { x = nan }\n", 6, "step.1.params.x", "expected a string"),
    (HEAD + "[[step]]\nkind = 'start-service'\nparams = { x = -inf }\n", 6, "step.1.params.x", "expected a string"),
    (HEAD + f"[[step]]\nkind = 'start-service'\nparams = {{ x = {2**64} }}\n", 6, "step.1.params.x", "a number"),
    (HEAD + "[[step]]\nkind = 'start-service'\nparams = 3\n", 6, "step.1.params", "expected a table"),
    (GOOD + 'effect = "observe"\n', 7, "step.1.effect", "declares observe, a run-command is at least destroy here"),
    (GOOD + 'effect = "change"\n', 7, "step.1.effect", "at least destroy"),
    (GOOD + 'effect = "harmless"\n', 7, "step.1.effect", "one of observe, protect, change, destroy"),
    (HEAD + "[[step]]\nkind = 'start-service'\neffect = 'protect'\n", 6, "step.1.effect", "at least change"),
    (HEAD + "[[step]]\nkind = 'restore-database'\neffect = 'change'\n", 6, "step.1.effect", "at least destroy"),
    (HEAD + "[[step]]\nid = 'a'\nkind = 'end-largest-process'\n[[step]]\nid = 'b'\nkind = 'end-largest-process'\n",
     6, "step.1.kind", "stands once"),
    (HEAD + "[[step]]\nkind = 'end-largest-process'\nidempotent = true\n", 5, "step.1.kind", "is not idempotent"),
    (HEAD + "[[step]]\nkind = 'stop-service'\n", 4, "step.1.effect", "a stop-service is at least destroy here"),
    (GOOD + "timeout = 60\n", 7, "step.1.timeout", "found 60, expected a duration"),
    (GOOD + 'timeout = "0s"\n', 7, "step.1.timeout", "between 0.01 and 3600 s"),
    (GOOD + 'timeout = "2h"\n', 7, "step.1.timeout", "between 0.01 and 3600 s"),
    (GOOD + 'timeout = "-1s"\n', 7, "step.1.timeout", "expected a duration"),
    (GOOD + "timeout = nan\n", 7, "step.1.timeout", "expected a duration"),
    (GOOD + "idempotent = 'no'\n", 7, "step.1.idempotent", "expected true or false"),
    (GOOD + "id = '../x'\n", 7, "step.1.id", "expected an id of a-z"),
    (GOOD + f'id = "{ESC}"\n', 7, "step.1.id", "expected an id of a-z"),
    (GOOD + STEP, 7, "step.2.id", "not unique"),
    (GOOD + "id = 'a'\n" + STEP + "id = 'a'\n", 11, "step.2.id", "not unique"),
]  # fmt: skip


@pytest.mark.req("FR-003", "NFR-001", "R3", "R11")
@pytest.mark.parametrize(("text", "line", "key", "words"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_each_fault_names_file_line_key_and_what_was_expected(
    folder: Path, text: str, line: int, key: str, words: str
) -> None:
    file = put(folder, text)
    said = faults(folder).splitlines()
    (first,) = [number for number, one in enumerate(said) if one.startswith(f"{file}:{line}: key {key}: ")][:1]
    assert words in "\n".join(said[first : first + 2])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'id = "rb-\xff"\n', "a.toml:1: not UTF-8"),
        (GOOD.encode("utf-16"), "a.toml:1: not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00", "a.toml:1: not TOML"),
        (b"a\x00b", "a.toml:1: not TOML"),
        (b"id = \n", "a.toml:1: not TOML"),
        (b'id = "rb-a"\nid = "rb-b"\n', "a.toml:2: not TOML"),
        (b"#" * (64 * 1024 + 1), "a.toml: expected at most 65536 bytes"),
        (b"a = " + b"[" * 60_000, "nested too deeply"),
        (b"a = " + b"9" * 5_000, "a number in it cannot be read"),
    ],
)
def test_a_file_that_is_no_runbook_at_all(folder: Path, raw: bytes, words: str) -> None:
    put(folder, raw)
    assert words in faults(folder)


def test_all_faults_of_all_files_are_told_at_once(folder: Path) -> None:
    put(folder, HEAD + "verifies = 3\n" + STEP.replace('"purge"', "7"), "a.toml")
    put(folder, "id = \n", "b.toml")
    put(folder, GOOD, "c.toml")
    put(folder, GOOD, "d.toml")
    said = re.findall(r"(\w\.toml):(\d+)", faults(folder))
    assert said == [("a.toml", "4"), ("a.toml", "7"), ("b.toml", "1"), ("d.toml", "1")]
    assert 'a second runbook "rb-mine"' in faults(folder)
    assert "c.toml has that id" in faults(folder)


def test_a_flood_of_files_is_cut(folder: Path) -> None:
    for number in range(30):
        put(folder, "x", f"{number:03}.toml")
    assert faults(folder).endswith("and 10 more files")


def test_there_is_a_limit_on_files_and_on_all_of_them_together(folder: Path) -> None:
    for number in range(201):
        put(folder, "x", f"{number:03}.toml")
    assert "201 runbooks, expected at most 200" in faults(folder)
    (folder / "200.toml").unlink()
    for number in range(40):
        put(folder, "#" * 60_000, f"{number:03}.toml")
    assert "in all its files, expected at most 2097152" in faults(folder)


def test_there_is_a_limit_on_what_the_commands_add(folder: Path) -> None:
    long = COMMANDS.replace('"--all"', '"' + "x" * 30_000 + '"')
    put(folder, GOOD)
    assert load(folder, long).runbook
    for number in range(100):
        put(folder, GOOD.replace("rb-mine", f"rb-{number}"), f"{number:03}.toml")
    with pytest.raises(ConfigError, match="bytes in all its runbooks and their commands"):
        load(folder, long)
    put(folder, GOOD + STEP + 'id = "b"\n' + STEP + 'id = "c"\n')
    with pytest.raises(ConfigError, match=r"a.toml:4: key step: is 9\d+ bytes with the commands that it names"):
        load(folder, long)


# --- whose they are ------------------------------------------------------------------------------------------------


@pytest.mark.req("NFR-001")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_what_others_can_write_is_not_trusted(folder: Path, mode: int) -> None:
    file = put(folder, GOOD)
    file.chmod(mode)
    assert f"{file}: can be written by others (mode {mode:04o})\n  chmod go-w {file}" in faults(folder)
    file.chmod(0o600)
    folder.chmod(0o700 | mode & 0o022)
    assert f"{folder}: can be written by others" in faults(folder)


@pytest.mark.req("NFR-001")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_somebody_else_is_not_trusted(folder: Path) -> None:
    file = put(folder, GOOD)
    os.chown(file, 65_534, 0)
    assert f"{file}: belongs to user 65534" in faults(folder)
    os.chown(file, 0, 0)
    os.chown(folder, 65_534, 0)
    assert f"{folder}: belongs to user 65534" in faults(folder)


@pytest.mark.req("NFR-001")
@pytest.mark.parametrize("what", ["link", "dangling", "folder link", "directory", "fifo", "socket", "file", "device"])
def test_nothing_but_a_file_in_a_directory_is_read(folder: Path, tmp_path: Path, what: str) -> None:
    good = tmp_path / "good.toml"
    good.write_text(GOOD)
    at = folder / "a.toml"
    words = "is not a regular file"
    match what:
        case "link":
            at.symlink_to(good)
            words = "a.toml: cannot be read: it is a symbolic link"
        case "dangling":
            at.symlink_to(tmp_path / "none")
            words = "a.toml: cannot be read: it is a symbolic link"
        case "folder link":
            put(folder, GOOD)
            folder.rename(tmp_path / "elsewhere")
            folder.symlink_to(tmp_path / "elsewhere")
            words = "cannot be read as a directory of runbooks: it is a symbolic link"
        case "directory":
            at.mkdir()
            words = "a.toml: cannot be read: Is a directory"
        case "fifo":
            os.mkfifo(at)
        case "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as one_end:
                one_end.bind(str(at))
            words = "a.toml: cannot be read: "
        case "file":
            folder.rmdir()
            folder.write_text(GOOD)
            words = "cannot be read as a directory of runbooks: Not a directory"
        case "device":
            if os.geteuid() != 0:
                pytest.skip("needs root to make a device")
            try:
                os.mknod(at, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it has no end
            except PermissionError:
                pytest.skip("may not make a device")
            words = "a.toml: "
    assert words in faults(folder)


@pytest.mark.req("NFR-001")
@pytest.mark.parametrize("name", ["a b.toml", "-rf.toml", "$(reboot).toml", "\x1b[31m.toml", "a\nb.toml", "é.toml"])
def test_a_name_that_is_none_is_refused(folder: Path, name: str) -> None:
    put(folder, GOOD, name)
    assert "expected the name of a file" in faults(folder)


def test_a_name_that_is_not_even_text_is_refused(folder: Path) -> None:
    with open(os.fsencode(folder) + b"/\xff.toml", "wb") as file:
        file.write(GOOD.encode())
    assert "expected the name of a file" in faults(folder)


@pytest.mark.req("NFR-001")
def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    """As somebody who is not root: in a process of its own where the tests are."""
    put(folder, GOOD).chmod(0o000)
    script = (
        "import sys\nfrom pathlib import Path\nfrom supervisor import config\nconfig.accept('', Path(sys.argv[1]))\n"
    )
    argv = [sys.executable, "-c", script, str(folder.parent / "healctl.toml")]
    if os.geteuid() == 0:
        argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert "a.toml: cannot be read: Permission denied" in done.stderr


# --- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.req("R11")
@pytest.mark.parametrize(
    ("table", "line", "key", "words"),
    [
        ('argv = []\neffect = "change"', 2, "argv", "at least 1 entry"),
        ('argv = "rm -rf /"\neffect = "change"', 2, "argv", "a list of strings"),
        ('argv = [""]\neffect = "change"', 2, "argv", "expected the absolute path of a program"),
        ('argv = ["./x"]\neffect = "change"', 2, "argv", "expected the absolute path of a program"),
        ('argv = ["-x"]\neffect = "change"', 2, "argv", "expected the absolute path of a program"),
        ('argv = ["/x", "{target}"]\neffect = "change"', 2, "argv", "a command is run as it stands"),
        ('argv = ["/x", "--of={service}"]\neffect = "change"', 2, "argv", "a command is run as it stands"),
        ('argv = ["/x", "a\\u0000b"]\neffect = "change"', 2, "argv", "without a NUL byte"),
        ('argv = ["/x"]', 1, "effect", "is missing"),
        ('argv = ["/x"]\neffect = "none"', 3, "effect", "one of observe"),
        ('argv = ["/x"]\neffect = "change"\ncwd = "x"', 4, "cwd", "an absolute path"),
        ('argv = ["/x"]\neffect = "change"\nenv = { "A=B" = "1" }', 4, "env.", "the name of an environment variable"),
        ('argv = ["/x"]\neffect = "change"\nenv = { A = 1 }', 4, "env.A", "expected a string"),
        ('argv = ["/x"]\neffect = "change"\ntimeout = "2h"', 4, "timeout", "between 0.01 and 3600"),
        ('argv = ["/x"]\neffect = "change"\ndescription = "a\\nb"', 4, "description", "one line of printable text"),
        ('argv = ["/x"]\neffect = "change"\nshell = true', 4, "shell", "unknown key"),
    ],
)  # fmt: skip
def test_a_command_is_a_fixed_list_of_words(table: str, line: int, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(f"[command.x]\n{table}\n", "f.toml")
    assert str(caught.value).startswith(f"f.toml:{line}: key command.x.{key}")
    assert words in str(caught.value)


@pytest.mark.req("R11")
def test_braces_that_are_no_placeholder_are_words_like_any_other() -> None:
    text = "[command.x]\nargv = ['/usr/bin/awk', '{print $1}']\neffect = 'observe'\n"
    assert config.parse(text, "f.toml").command["x"].argv == ("/usr/bin/awk", "{print $1}")


def test_none_of_our_own_anomalies_can_be_named() -> None:
    assert len(AnomalyType) - len(files._HOUSE) == 13  # FR-002's
