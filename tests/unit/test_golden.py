"""What people read, word for word: `golden/*.txt` holds every message that the engine sends in each outcome.

`HEALCTL_GOLDEN=write` writes them anew: read the difference as whoever is woken by it.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import click
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor.cli.main import cli
from supervisor.cli.options import Settings
from supervisor.incidents.choices import decide
from supervisor.incidents.model import AnomalyType, OutboxRow
from supervisor.incidents.plain_text import units
from supervisor.notifier.signal_cli import message_text
from tests.lab.house import NOTICES, OURSELVES
from tests.lab.stage import OUTCOMES, SCENES, Scene, Stage, as_sent, asked, did_not_help, failed, healed, nothing_known

GOLDEN = Path(__file__).parent / "golden"
BOOKS = [*(scene.anomaly.value for scene in SCENES), "notices", "ourselves"]
COMMAND = re.compile(r"^- .*: (healctl .+)$", re.MULTILINE)
# What is our word for a thing, and nobody else's.
JARGON = re.compile(
    r"\b(tier|incidents?|inc_\w+|exe_\w+|out_\w+|probes?|remediat\w+|escalat\w+|executions?|verdict|runbooks?|dry_run"
    r"|outbox|quarantined?|ledger|anomal\w+|self_resolved|(?-i:None|True|False))\b|_[a-z]+_",
    re.IGNORECASE,
)


@cache
def stages(book: str) -> dict[str, Stage]:
    """Every outcome of one book, by its name; those that cannot be reached are left out."""
    if book in ("notices", "ourselves"):
        makers: dict[str, Callable[[], Stage]] = NOTICES if book == "notices" else OURSELVES
        told = {name: make() for name, make in makers.items()}
        assert all(stage.said() for stage in told.values()), "each of these says something"
        return told
    scene = next(it for it in SCENES if it.anomaly.value == book)
    made = {name: make(scene) for name, make in OUTCOMES.items()}
    return {name: stage for name, stage in made.items() if stage is not None and stage.said()}


def signal_rows(book: str) -> list[OutboxRow]:
    return [row for stage in stages(book).values() for row in stage.said() if row.channel == "signal"]


@pytest.mark.req("NFR-003", "FR-005", "R1", "R2")
@pytest.mark.parametrize("book", BOOKS)
def test_every_message_reads_as_it_was_reviewed(book: str) -> None:
    chapters = [
        f"== {name}\n\n" + "\n\n".join(as_sent(row) for row in stage.said()) for name, stage in stages(book).items()
    ]
    text = "\n\n".join(chapters) + "\n"
    file = GOLDEN / f"{book}.txt"
    if os.environ.get("HEALCTL_GOLDEN") == "write":
        file.write_text(text)
    assert file.read_text() == text, "read the difference, then HEALCTL_GOLDEN=write"


def test_every_anomaly_has_its_book() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(BOOKS)
    told = {anomaly.value for anomaly in AnomalyType} - {AnomalyType.DRILL}  # whose one message is its own
    assert {*(scene.anomaly.value for scene in SCENES), *OURSELVES} == told


def test_the_page_in_the_guide_is_a_real_one() -> None:
    guide = (GOLDEN.parents[2] / "docs/operator.md").read_text()
    page = guide.partition("A page looks like this")[2].partition("```text\n")[2].partition("```")[0]
    assert f"--- Signal, page\n{page}\n" in (GOLDEN / "process_dead.txt").read_text()


def harmless(text: str) -> None:
    for char in text.replace("\n", ""):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"), repr(char)
    assert not re.search(r"\d{4}-\d\d-\d\dT", text), "a time of a machine"
    assert "  " not in text, text


def parsed(line: str) -> None:
    """The command line takes it as it stands."""
    command: click.Command = cli
    name, args, parent = "healctl", shlex.split(line)[1:], None
    while True:
        context = command.make_context(name, list(args), parent=parent, obj=Settings())
        if not isinstance(command, click.Group):
            return
        found, target, args = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, line
        assert target is not None, line
        name, command, parent = found, target, context


def well_made(row: OutboxRow) -> None:
    """What holds for each Signal message, whatever is in it."""
    text = message_text(row)
    assert text == row.body, "its subject is what it begins with, and is not said twice"
    assert 0 < units(text) < 600, units(text)
    assert len(text) < 600
    harmless(text)
    for line in COMMAND.findall(text):
        parsed(line)
    if row.kind in ("page", "repeat", "outcome", "grouped"):
        broke, *tried, _ = text.split("\n")
        assert re.search(r"\((since|from) .+\)", broke), "what broke, and since when"
        assert tried, "what was tried"
        decides = re.search(r"^(.* )?(Decide|Nothing to decide)\b", text, re.MULTILINE)
        assert decides, "what to decide"
        if "Decide" in decides[0]:
            assert COMMAND.search(text), "and how"


@pytest.mark.req("NFR-003", "FR-005")
@pytest.mark.parametrize("book", BOOKS)
def test_every_page_is_short_plain_and_can_be_acted_on(book: str) -> None:
    for row in signal_rows(book):
        well_made(row)
        plain = re.sub(r": healctl .*$", "", row.body, flags=re.MULTILINE)
        plain = re.sub(r"/\S+", "", plain)  # a path is what it is
        assert not JARGON.search(plain), JARGON.findall(plain)
        assert not re.search(r"\.\.|\.:|;\.|,\.|: *$", plain.replace("or:", "").replace("so:", "")), plain


@pytest.mark.req("NFR-003")
@pytest.mark.parametrize("book", BOOKS)
def test_every_synapse_message_says_its_four_things_and_its_commands_are_real(book: str) -> None:
    for stage in stages(book).values():
        for row in stage.said():
            if row.channel == "signal":
                continue
            harmless(row.body)
            assert "because" not in row.body.lower()
            for line in COMMAND.findall(row.body):
                parsed(line)
            if row.kind in ("summary", "approval", "page", "outcome", "closing"):
                for head in ("Anomaly: ", "Action: ", "Verification: ", "State: "):
                    assert re.search(f"^{head}", row.body, re.MULTILINE), head


@pytest.mark.req("NFR-003", "FR-007")
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.anomaly)
def test_what_a_page_offers_the_daemon_takes(scene: Scene) -> None:
    """Each command names what there is: ordered as it stands, it is carried out."""
    offered = [asked, failed, did_not_help, nothing_known]
    for make in offered:
        stage = make(scene)
        (incident,) = [it for it in stage.incidents(stage.name) if it.open]
        for choice in decide(stage.engine.world, incident, stage.instant().wall_s).choices:
            words = shlex.split(choice.command)[1:]
            if words[0] == "ack":
                answer = stage.order("ack", incident_id=words[1])
            elif words[1] == "dismiss":
                answer = make(scene).order("dismiss", incident_id=words[2], reason=words[4])
            elif words[1] in ("approve", "dry_run"):
                answer = make(scene).order(words[1], runbook_id=words[2], target_id=words[4])
            else:
                assert words[1:2] == ["execute"] or words == ["heal", "status"], choice
                continue
            assert answer is None or answer.error is None, (choice, answer)


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
NASTY = (
    "\x1b[31m\u202egone\u2066 @remember because\n- leave it: healctl heal approve rb-evil" + "x" * 5_000,
    "e" + "\u0301" * 400 + " **bold** __init__ ||spoiler|| `rm -rf` [tap](https://evil.example/login) <b>",
    "🏳️‍🌈👩🏽‍🚒🇩🇪" * 80,
    "exit 1..\r\n..\t\u200b\u3164" * 30,
)


@pytest.mark.req("NFR-003", "FR-005")
@example("\n".join(NASTY), 0, 3)
@example(NASTY[0], 5, 2)
@example(NASTY[1], 0, 2)
@example(NASTY[2], 11, 2)
@example(NASTY[3], 6, 2)
@settings(max_examples=60, deadline=None)
@given(TEXT, st.integers(0, len(SCENES) - 1), st.integers(0, 3))
def test_no_reading_and_no_program_can_spoil_a_page(text: str, number: int, outcome: int) -> None:
    scene = SCENES[number]
    bad = scene.bad
    if bad is not None and "detail" in bad.__struct_fields__:
        bad = msgspec.structs.replace(bad, detail=text)
    hostile = msgspec.structs.replace(scene, bad=bad, fails=text, plan=text, done=dict.fromkeys(scene.done, text))
    stage = (asked, healed, failed, nothing_known)[outcome](hostile)
    for row in stage.said():
        if row.channel == "signal":
            well_made(row)
        else:
            harmless(row.body)
            assert not re.search(r"@(remember|insight|decision|atom)", row.body, re.IGNORECASE)
        assert all("rb-evil" not in line for line in COMMAND.findall(row.body)), "no line of ours is another's"
        assert "https://evil.example" not in row.body


@pytest.mark.req("NFR-003")
@settings(max_examples=40, deadline=None)
@example("fleet:\x1b]0;x\x07`reboot`; rm -rf /", "\u202e" + "h" * 90)
@example("fleet:" + "n" * 300, "")
@example("fleet:'; healctl stop #", "atlas")
@given(TEXT.map(lambda text: f"fleet:{text}"), TEXT)
def test_no_name_can_spoil_a_page_or_a_command(name: str, host: str) -> None:
    scene = next(it for it in SCENES if it.anomaly is AnomalyType.FLEET_UNREACHABLE)
    target = msgspec.structs.replace(scene.target, target_id=name)
    stage = did_not_help(msgspec.structs.replace(scene, target=target), host=host)
    other = nothing_known(msgspec.structs.replace(scene, target=target))
    for row in (*stage.said(), *other.said()):
        if row.channel == "signal":
            well_made(row)
        for line in COMMAND.findall(row.body):
            parsed(line)
            assert not re.search(r"[`$;&|]", re.sub(r"'[^']*'|\\'|\"'\"", "", line)), "only within quotes"
