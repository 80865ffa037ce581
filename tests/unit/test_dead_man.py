"""The dead man's switch outside: its address, when it is pinged, and what of its failures is told (FR-005, R1)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any, cast

import pytest

from supervisor import __version__
from supervisor.bus import Hub
from supervisor.config import Config, Duration, EscalationSection, parse
from supervisor.errors import BusError, ConfigError
from supervisor.house import beginning
from supervisor.incidents import events as e
from supervisor.incidents.model import AnomalyType, State, Tier
from supervisor.messages import Body, Nack, Pinged, PingNow
from supervisor.notifier.dead_man import DeadMan, ping
from supervisor.pinging import STEADY_S, Pinging
from supervisor.scrape.text import page
from supervisor.units import parse_ping
from tests import parts
from tests.doubles.watcher import Authority, Watcher
from tests.lab.engine import Lab

TOKEN = "s3cr3t-5f0c2b"
URL = f"https://hc-ping.com/{TOKEN}?key={TOKEN}"


# -- its address --


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (URL, ("https://hc-ping.com", f"/{TOKEN}?key={TOKEN}")),
        ("http://127.0.0.1:8080", ("http://127.0.0.1:8080", "/")),
        ("https://[::1]:1/a", ("https://[::1]:1", "/a")),
        ("https://host?x=1", ("https://host", "/?x=1")),
        ("ftp://host/a", None),
        ("host/a", None),
        ("https:///a", None),
        ("https://user:word@host/a", None),
        ("https://host/a#b", None),
        ("https://host:0/a", None),
        ("https://host:70000/a", None),
        ("https://host:/a", None),
        ("https://ho st/a", None),
        ("https://host/a b", None),
        ("https://host/ä", None),
        ("https://[::1/a", None),
        ("https://ho%73t/a", None),
        ("https://host/\r\nx: y", None),
        ("https://host/" + "a" * 2000, None),
    ],
)
def test_an_address_is_what_may_be_shown_and_its_secret(text: str, parts: tuple[str, str] | None) -> None:
    assert parse_ping(text) == parts


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    "value",
    [f'"ftp://{TOKEN}"', f'["{TOKEN}"]', f'"https://{TOKEN}@host"', f'"https://h/\\u0000{TOKEN}"', f'"{TOKEN}"'],
)
def test_a_wrong_address_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f"[escalation]\ndead_man_url = {value}\n", "healctl.toml")
    assert "healctl.toml:2: key escalation.dead_man_url" in raised.value.message
    assert 'expected an address like "https://hc-ping.com/UUID"' in raised.value.message
    assert TOKEN not in f"{raised.value.message} {raised.value.hint} {raised.value!r}"


def test_it_cannot_be_pinged_more_often_than_the_engine_goes_round() -> None:
    with pytest.raises(ConfigError, match=r"dead_man_every: found 4 s, expected tree\.beat \(5 s\) or more"):
        parse(f'[escalation]\ndead_man_url = "{URL}"\ndead_man_every = "4s"\n', "x.toml")
    assert parse('[escalation]\ndead_man_every = "4s"\n', "x.toml").escalation.dead_man_url == ""
    assert parse(f'[escalation]\ndead_man_url = "{URL}"\n', "x.toml").escalation.dead_man_every == 300


# -- when it is pinged --


class Notifier:
    """Where the healer's words go: each is answered when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Body]] = []
        self.full = False

    def request(self, to: str, body: Body) -> asyncio.Future[Body]:
        assert (to, body) == ("notifier", PingNow())
        if self.full:
            raise BusError("full")
        self.asked.append(asyncio.get_event_loop().create_future())
        return self.asked[-1]


class Healer:
    def __init__(self, url: str = URL, every_s: float = 300.0) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.lab = Lab("web")
        self.notifier = Notifier()
        self.config = Config(escalation=EscalationSection(dead_man_url=url, dead_man_every=Duration(every_s)))
        self.pinging = Pinging(
            cast(Hub, self.notifier), lambda: self.config, self.lab.engine.world, self.lab.feed, now_s=1000.0
        )

    def answer(self, body: Body) -> None:
        self.notifier.asked[-1].set_result(body)
        self.loop.run_until_complete(asyncio.sleep(0))

    def rounds(self, from_s: float, until_s: float) -> None:
        now_s = from_s
        while now_s < until_s:
            self.pinging.came_round(now_s)
            now_s += 5.0

    def pinged(self, now_s: float, error: str = "", good_wall_s: float | None = None) -> None:
        """One ping from its round to its outcome."""
        before = len(self.notifier.asked)
        self.pinging.came_round(now_s)
        assert len(self.notifier.asked) == before + 1
        self.answer(Pinged(error, good_wall_s))

    def incidents(self) -> list[tuple[State, Tier | None]]:
        found = [*self.lab.engine.world.incidents.values()]
        return [(i.state, i.tier) for i in found if i.anomaly is AnomalyType.DEAD_MAN_FAILING]


@pytest.fixture
def healer() -> Iterator[Healer]:
    made = Healer()
    yield made
    made.loop.close()
    asyncio.set_event_loop(None)


@pytest.mark.req("FR-005")
def test_a_round_is_a_ping_at_most_once_in_the_interval_and_one_at_a_time(healer: Healer) -> None:
    healer.rounds(1000.0, 1000.0 + STEADY_S)
    assert healer.notifier.asked == [], "a healer that has only just begun"
    healer.rounds(1000.0 + STEADY_S, 2000.0)
    assert len(healer.notifier.asked) == 1, "nothing is queued behind one that is not answered"
    healer.answer(Pinged("", 5.0))
    healer.rounds(2000.0, 2300.0)
    assert len(healer.notifier.asked) == 2
    healer.answer(Pinged("", 6.0))
    healer.pinging.came_round(2299.0)
    assert len(healer.notifier.asked) == 2
    healer.pinging.came_round(2300.0)
    assert len(healer.notifier.asked) == 3


def test_no_round_no_ping_and_no_address_no_ping(healer: Healer) -> None:
    off = Healer(url="")
    off.rounds(1000.0, 5000.0)
    assert off.notifier.asked == []
    assert off.pinging.view() is None
    assert [family.samples for family in off.pinging.families()] == [(), ()]
    off.loop.close()


def test_a_full_bus_is_no_reason_to_die(healer: Healer) -> None:
    healer.notifier.full = True
    healer.rounds(1000.0, 1300.0)
    healer.notifier.full = False
    healer.pinged(1300.0)


@pytest.mark.req("R1", "FR-005")
def test_three_failures_in_a_row_are_told_once_at_tier_1_and_the_next_success_ends_it(healer: Healer) -> None:
    healer.pinged(2000.0, "https://hc-ping.com: answered 500")
    healer.pinged(2300.0, "https://hc-ping.com: answered 500")
    healer.pinged(2600.0)
    for now_s in (3000.0, 3300.0):
        healer.pinged(now_s, "https://hc-ping.com: answered 500")
    assert healer.incidents() == []
    healer.pinged(3600.0, "https://hc-ping.com: answered 500")
    assert healer.incidents() == [(State.ESCALATED, Tier.INFORM)]
    for now_s in range(4000, 9000, 300):
        healer.lab.advance(300)
        healer.pinged(float(now_s), "https://hc-ping.com: answered 503")
    lab = healer.lab
    lab.advance(86400.0)
    assert len(healer.incidents()) == 1
    assert lab.messages("signal") == [], "no page: the watcher outside raises its own alarm"
    (told,) = lab.messages("synapse")
    assert told.tier is Tier.INFORM
    assert "3 pings in a row have failed" in told.body
    healer.pinged(9300.0, "", lab.now_s)
    assert healer.incidents() == []
    assert healer.pinging.view() == {
        "address": "https://hc-ping.com/...",
        "last_ping": cast(dict[str, Any], healer.pinging.view())["last_ping"],
        "failures": 0,
        "error": None,
    }


def test_a_refusal_is_a_failure_and_what_a_notifier_knows_outlives_the_healer(healer: Healer) -> None:
    healer.pinging.came_round(2000.0)
    healer.answer(Nack("unexpected", "the notifier does not take a PingNow"))
    view = cast(dict[str, Any], healer.pinging.view())
    assert (view["failures"], view["last_ping"]) == (1, None)
    assert "does not take a PingNow" in view["error"]
    healer.pinged(3000.0, "https://hc-ping.com: answered 500", 1_800_000_000.0)
    view = cast(dict[str, Any], healer.pinging.view())
    assert view["last_ping"].startswith("2027-01-15T")
    raw = page(healer.pinging.families())
    done = subprocess.run([str(parts.promtool()), "check", "metrics"], input=raw, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    text = raw.decode()
    assert "\nheal_dead_man_last_success_timestamp_seconds 1800000000\n" in text
    assert "\nheal_dead_man_failures 2\n" in text
    assert TOKEN not in f"{view}{text}"


def test_another_address_begins_anew_and_none_ends_the_incident(healer: Healer) -> None:
    for now_s in (2000.0, 2300.0, 2600.0):
        healer.pinged(now_s, "refused")
    healer.pinging.came_round(3000.0)
    old = healer.notifier.asked[-1]
    healer.config = Config(escalation=EscalationSection(dead_man_url="https://other.example/x"))
    healer.pinging.reconfigured(3001.0)
    healer.pinging.came_round(3005.0)
    assert healer.notifier.asked[-1] is not old, "at once, and the answer for the old one counts for nothing"
    healer.loop.run_until_complete(asyncio.sleep(0))
    assert cast(dict[str, Any], healer.pinging.view())["failures"] == 0
    assert len(healer.incidents()) == 1, "nothing has arrived there yet"
    assert healer.lab.engine.world.by_key
    healer.config = Config()
    (over,) = beginning(healer.lab.engine.world, healer.config)[2:]
    assert isinstance(over, e.OwnPart)
    assert over.anomaly is AnomalyType.DEAD_MAN_FAILING
    assert not over.firing
    healer.pinging.reconfigured(3010.0)
    assert healer.incidents() == []


# -- the ping itself --


def _ping(url: str, within_s: float = 10.0) -> str:
    said = asyncio.run(ping(url, within_s))
    assert TOKEN not in said
    return said


@pytest.mark.req("FR-005")
def test_a_ping_is_one_get_and_only_2xx_is_good() -> None:
    with Watcher() as watcher:
        url = watcher.url(f"/{TOKEN}?a=1")
        origin = watcher.url("")
        assert _ping(url) == ""
        assert [line for _, line in watcher.pings] == [f"GET /{TOKEN}?a=1 HTTP/1.1"]
        assert watcher.agents == {f"healctl/{__version__}"}
        for status, says in ((302, "answered 302, a redirect, which is not followed"), (404, "answered 404")):
            watcher.status = status
            assert _ping(url).startswith(f"{origin}: {says}")
        assert watcher.connections == 3, "nothing is followed, nothing is tried again"
        watcher.status, watcher.body = 200, b"x" * (2 * 1024 * 1024)
        assert "longer than" in _ping(url)
        watcher.silent = True
        assert _ping(url, 0.2) == f"{origin}: no complete answer within 0.2 s"
    assert _ping(url).startswith(f"{origin}: ")
    assert _ping("") == "no dead_man_url is configured"


@pytest.mark.req("FR-005")
def test_https_is_for_the_right_name_by_an_authority_that_is_trusted(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, foreign = Authority(tmp_path), Authority(tmp_path, "somebody")
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    with Watcher(ours.context("localhost")) as watcher:
        url, origin = watcher.url(f"/{TOKEN}"), watcher.url("")
        assert _ping(url) == ""
        watcher.silent = True
        assert _ping(url, 0.5) == f"{origin}: no complete answer within 0.5 s"
        watcher.silent = False
        watcher.tls = foreign.context("localhost")
        assert _ping(url).startswith(f"{origin}: its certificate is not accepted: unable to get local issuer")
        watcher.tls = ours.context("elsewhere.example")
        assert _ping(url).startswith(f"{origin}: its certificate is not accepted: Hostname mismatch")
        watcher.tls = None
        assert _ping(url).startswith(f"{origin}: it does not speak TLS as it should: ")
        assert len(watcher.pings) == 1, "no request leaves before the certificate is accepted"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_who_says_nothing_or_says_our_own_words_back_gets_no_secret_into_a_log(scheme: str) -> None:
    async def test(*, mute: bool) -> str:
        let_go = asyncio.Event()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                writer.write(b"" if mute else await reader.read(4096))
                await writer.drain()
                if mute:
                    await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            let_go.set()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/{TOKEN}"
            said = await ping(url, 0.5 if mute else 60.0)
            await asyncio.wait_for(let_go.wait(), 60)
            return said

    told = {False: "not HTTP" if scheme == "http" else "does not speak TLS", True: "within 0.5 s"}
    for mute, says in told.items():
        said = asyncio.run(test(mute=mute))
        assert says in said
        assert TOKEN not in said


def test_a_word_that_comes_again_is_one_ping_and_the_newest_is_answered() -> None:
    answers: list[tuple[Body, str]] = []

    async def test(url: str) -> None:
        answered = asyncio.Event()

        def answer(body: Body, *, re: str) -> None:
            answers.append((body, re))
            answered.set()

        dead_man = DeadMan(lambda: url, answer)
        for frame_id in ("one", "one", "two"):
            dead_man.take(frame_id)
        await asyncio.wait_for(answered.wait(), 60)
        dead_man.take("two")
        dead_man.take("three")
        await dead_man.close()

    with Watcher() as watcher:
        asyncio.run(test(watcher.url(f"/{TOKEN}")))
        assert len(watcher.pings) == 1
    assert [re for _, re in answers] == ["two", "two"]
    assert answers[0][0] == answers[1][0]
    assert isinstance(answers[0][0], Pinged)
    assert answers[0][0].error == ""
    assert answers[0][0].good_wall_s is not None


def test_an_address_that_changes_meanwhile_is_pinged_before_anything_is_answered() -> None:
    answers: list[Pinged] = []

    async def test(*urls: str) -> None:
        answered = asyncio.Event()
        left = [*urls]

        def answer(body: Pinged, *, re: str) -> None:
            answers.append(body)
            answered.set()

        dead_man = DeadMan(lambda: left.pop(0) if len(left) > 1 else left[0], answer)
        dead_man.take("one")
        await asyncio.wait_for(answered.wait(), 60)
        await dead_man.close()

    with Watcher() as good, Watcher() as bad:
        bad.status = 500
        asyncio.run(test(bad.url("/"), good.url("/")))
        asyncio.run(test(good.url("/"), bad.url("/")))
        asyncio.run(test(""))
        assert (len(good.pings), len(bad.pings)) == (2, 2)
        assert [one.error for one in answers] == ["", f"{bad.url('')}: answered 500", "no dead_man_url is configured"]
        assert answers[0].good_wall_s is not None
        assert answers[1].good_wall_s is None, "of the other address"
