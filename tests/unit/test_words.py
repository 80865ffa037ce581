"""The parts of what people read: times in their zone, harmless text, names for incidents, and room for replies."""

from __future__ import annotations

import time
import unicodedata
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from supervisor import zones
from supervisor.config import parse
from supervisor.errors import ConfigError
from supervisor.house import policy_of
from supervisor.incidents import events as e
from supervisor.incidents import plain_text, wording
from supervisor.incidents.attempts import Part
from supervisor.incidents.local_time import UTC_ZONE, Zone, at
from supervisor.incidents.model import Channel
from supervisor.incidents.plain_text import clean, cut, ended, sentence, units
from tests.lab.engine import Lab, service
from tests.lab.stage import BERLIN, SCENES, asked


def wall_s(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


NOW = wall_s("2026-03-11 14:30")  # a Wednesday


@pytest.mark.req("NFR-003")
@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("2026-03-11 14:05", "14:05"),
        ("2026-03-11 00:00", "00:00"),
        ("2026-03-10 23:59", "Tue 23:59"),
        ("2026-03-05 14:05", "Thu 14:05"),
        ("2026-03-04 14:05", "4 Mar 14:05"),  # a Wednesday, too
        ("2025-11-03 14:05", "3 Nov 2025 14:05"),
        ("2026-03-12 09:00", "Thu 09:00"),  # until when a pause lasts, say
    ],
)
def test_times_are_local_and_as_short_as_they_are_clear(when: str, said: str) -> None:
    assert at(BERLIN, wall_s(when), NOW) == said


@pytest.mark.req("NFR-003")
def test_the_zone_is_named_only_in_the_hour_that_comes_twice_or_where_none_is_known() -> None:
    zone = zones.table("Europe/Berlin")
    now = wall_s("2026-10-25 09:00")
    assert at(zone, wall_s("2026-10-25 02:30"), now) == "02:30 CEST"
    assert at(zone, wall_s("2026-10-25 02:30", fold=1), now) == "02:30 CET"
    assert [at(zone, wall_s(f"2026-10-25 {hour}"), now) for hour in ("01:59", "03:00")] == ["01:59", "03:00"]
    assert at(zone, wall_s("2026-03-29 03:00"), wall_s("2026-03-29 09:00")) == "03:00", "the hour that never was"
    assert at((), 0.0, 60.0) == "00:00 UTC"
    assert at(UTC_ZONE, 0.0, 60.0) == "00:00"


@pytest.mark.parametrize(
    "name", ["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Africa/Casablanca", "Pacific/Apia", "UTC"]
)
def test_a_zone_s_table_says_what_the_zone_says(name: str) -> None:
    table = zones.table(name)
    for day in range(0, 15 * 365, 3):
        at_s = zones.FROM_WALL_S + day * 86_400.0 + 1_234.0
        local = datetime.fromtimestamp(at_s, ZoneInfo(name))
        assert at(table, at_s, at_s).split()[0] == f"{local:%H:%M}", local
    for shift in table[1:]:  # to the second
        before, after = (datetime.fromtimestamp(shift.from_wall_s - s, ZoneInfo(name)).utcoffset() for s in (1, 0))
        assert before != after


def test_the_default_is_the_machine_s_own_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    def offset_s(zone: Zone) -> float:
        return next(shift.offset_s for shift in reversed(zone) if shift.from_wall_s <= NOW)

    try:
        for name, hours in (("Asia/Tokyo", 9), ("America/Phoenix", -7)):
            monkeypatch.setenv("TZ", name)
            time.tzset()
            assert offset_s(policy_of(parse("", "none")).zone) == hours * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", ["Europe/Berlln", "../etc/passwd", "Europe", "/etc/localtime", "CEST+", "a\\u0000b"])
def test_a_zone_that_nobody_knows_is_refused_with_its_key(name: str) -> None:
    with pytest.raises(ConfigError, match=r"escalation\.timezone"):
        parse(f'[escalation]\ntimezone = "{name}"', "here.toml")


def test_zone_and_host_reach_the_engine() -> None:
    policy = policy_of(parse('[escalation]\ntimezone = "Europe/Berlin"\nhost = "atlas"', "here.toml"))
    assert policy.zone == zones.table("Europe/Berlin")
    assert policy.host == "atlas"


@pytest.mark.req("NFR-003")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\n\nlines", "two; lines"),
        ("exit 1:\r\nno such file", "exit 1: no such file"),
        ("\x1b[31mred\x1b[0m \x00\x07end", "[31mred [0m end"),
        ("\u202egnp.exe\u2066 a\u200bb\ufeffc\u00add", "gnp.exe abcd"),
        ("a\u0301\u0301\u0301\u0301\u0301b", "\u00e1\u0301\u0301\u0301b"),
        ("\ud800 lone", "\ufffd lone"),
        ("blank\u3164\u2800\u115fs", "blank s"),
        ("`rm` **x** ||y|| ~~z~~ __init__", "'rm' \u2217\u2217x\u2217\u2217 |y| ~z~ \u2017init\u2017"),
        ("[tap](https://evil.example/a.b)", "[tap] (https://evil[.]example/a.b)"),
        ("www.evil.example HTTP://6.6.6.6:80", "www[.]evil[.]example HTTP://6[.]6[.]6[.]6:80"),
        ("http://127.0.0.1:8080/health", "http://127.0.0.1:8080/health"),
        ("http://127.0.0.1.evil.example/", "http://127[.]0[.]0[.]1[.]evil[.]example/"),
        ("http://localhost@evil.example/", "http://localhost@evil[.]example/"),
        ("<b>bold</b>", "\u2039b\u203abold\u2039/b\u203a"),
    ],
)
def test_text_of_others_is_one_harmless_line(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.req("NFR-003")
def test_what_is_shown_without_a_second_look_is_neither_blank_nor_unseen_nor_a_mark() -> None:
    plain = [char for char in map(chr, range(0x11000)) if plain_text._PLAIN.fullmatch(char)]
    assert {"a", " ", "`", "é", "…", "›", "∗", "→"} < set(plain)
    divides_or_hides = [char for char in plain if unicodedata.category(char)[0] in "CMZ" and char != " "]
    assert divides_or_hides == []
    assert plain_text._NOT_SHOWN.isdisjoint(plain)


def test_a_long_word_loses_its_middle_and_a_long_text_its_end() -> None:
    word = "/very/long" * 20 + "/end.log"
    assert clean(word).startswith("/very/long/very/long")
    assert clean(word).endswith("/end.log")
    assert len(clean(word)) < 80
    assert clean("word " * 100, 30) == "word word word word word word…"


@pytest.mark.parametrize("limit", range(1, 40))
@pytest.mark.parametrize("text", ["🇩🇪🇫🇷🇯🇵" * 10, "👩🏽" * 20, "e\u0323\u0302" * 20, "𝒳𝒴" * 30])
def test_a_cut_leaves_what_is_one_sign_for_people_whole_and_counts_as_signal_does(text: str, limit: int) -> None:
    shown = cut(text, limit)
    assert units(shown) == len(shown.encode("utf-16-le")) // 2 <= limit
    kept = shown.removesuffix("…")
    assert text.startswith(kept)
    rest = text[len(kept) :]
    assert not rest.startswith(("🏽", "\u0323", "\u0302"))
    flags = sum(1 for char in kept if "\U0001f1e6" <= char <= "\U0001f1ff")
    assert flags % 2 == 0


def test_sentences_end_once_and_names_keep_their_first_letter() -> None:
    assert ended("no such file...") == "no such file."
    assert ended("killed by SIGKILL): ") == "killed by SIGKILL)."
    assert ended(" ") == ""
    assert sentence("the disk is full") == "The disk is full."
    assert sentence("web-1 is down") == "web-1 is down."
    assert sentence("healctl tried") == "healctl tried."
    assert Part("It failed:", "").text(100) == "It failed."
    assert Part("It failed:", "exit 1, at once").text(5) == "It failed.", "less than a word is not worth saying"
    assert Part("It failed:", "exit 1, at once").text(100) == "It failed: exit 1, at once."


@pytest.mark.req("NFR-003")
def test_what_to_decide_is_never_cut_others_words_give_way() -> None:
    scene = msgspec.structs.replace(SCENES[0], plan="would " + "do this and that " * 80)
    (page,) = [row for row in asked(scene).messages("signal") if row.kind == "page"]
    assert units(page.body) < 600
    assert page.body.endswith("- I am on it, stop reminding me: healctl ack web")
    assert "It would: do this and that" in page.body


@pytest.mark.req("NFR-003", "R15")
def test_where_replies_are_taken_their_line_stands_for_the_commands() -> None:
    stage = asked(SCENES[0])
    (incident,) = stage.incidents("web")
    args = (stage.engine.world, incident, Channel.SIGNAL, "page", stage.instant().wall_s)
    text = wording.body(*args, replies="Reply: ok, run, approve or dismiss 4h")
    assert text.endswith("Decide: restart web?\nReply: ok, run, approve or dismiss 4h")
    assert "healctl heal" not in text


@pytest.mark.req("FR-007", "NFR-003")
def test_an_incident_is_named_by_its_target_while_that_has_only_one() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    answer = lab.order("ack", incident_id="web")
    assert answer is not None
    assert answer.error is None
    assert lab.only("web").acknowledged_wall_s is not None
    lab.silent.add("web")
    for _ in range(4):
        lab.advance(60)
        lab.feed(e.ReadingSeen(lab.unavailable("web")))
    assert len([it for it in lab.incidents("web") if it.open]) == 2
    answer = lab.order("dismiss", incident_id="web", reason="which one?")
    assert answer is not None
    assert "web has 2 open incidents" in str(answer.error)
    answer = lab.order("ack", incident_id="nobody")
    assert answer is not None
    assert "no open incident 'nobody'" in str(answer.error)
