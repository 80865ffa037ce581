"""Which hosts the fleet probe watches, by a hosts file that others write, and what it takes from others' polls."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from probes import fleet
from probes.base import Refused
from probes.fleet import FleetProbe
from probes.fleet_hosts import HOSTS_MAX, NAME, Host, parse_host, parse_list
from probes.ssh_dial import failed
from supervisor import clock, schema
from supervisor.config import Config, Duration, FleetHost, FleetSection
from supervisor.incidents.readings import FleetData, HealthReading, SourceReading, Unavailable

WITHIN_S = 60.0


def test_a_target_may_have_the_names_that_the_configuration_allows() -> None:
    assert NAME.pattern == schema._NAME.pattern


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.0.0.1", Host("10.0.0.1")),
        ("a.example", Host("a.example")),
        ("me@a.example:2222", Host("a.example", 2222, "me")),
        ("a.example:2222", Host("a.example", 2222)),
        ("me@a", Host("a", 22, "me")),
        (" a ", Host("a")),
        ("::1", Host("::1")),
        ("me@[fe80::1%eth0]:23", Host("fe80::1%eth0", 23, "me")),
        ("[::1]", Host("::1")),
        ("dom\\me@a", Host("a", 22, "dom\\me")),
    ],
)
def test_where_a_host_is(text: str, host: Host) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text", ["", "a:", "a:x", "a:0", "a:65536", "a:-1", "-oProxyCommand=x", "a b", "a/b", "-x@a", "x y@a", "[::1]x",
             "me@", "a:٢٢", "a;b", "$(a)"],
)  # fmt: skip
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_host(text)


@pytest.mark.req("FR-001")
def test_both_forms_of_a_hosts_file_and_every_key() -> None:
    entries = [
        {"name": "a", "host": "me@10.0.0.1:2222"},
        {"name": "b", "address": "b.example", "port": 23, "tags": ["more"]},
        {"name": "c", "host": "10.0.0.3", "port": 24},
    ]
    expected = {"a": Host("10.0.0.1", 2222, "me"), "b": Host("b.example", 23), "c": Host("10.0.0.3", 24)}
    for whole in (entries, {"hosts": entries, "version": 1}):
        listed = parse_list(json.dumps(whole).encode())
        assert listed.hosts == expected
        assert listed.problems == ()


@pytest.mark.parametrize(
    "entry",
    [
        {"host": "x"}, {"name": "b"}, {"name": "B", "host": "x"}, {"name": "a", "host": "x"}, {"name": "b", "host": 7},
        {"name": 7, "host": "x"}, {"name": "b/c", "host": "x"}, {"name": "b" * 65, "host": "x"}, "b", None, 7, [],
        {"name": "b", "host": "x", "port": "22"}, {"name": "b", "host": "x", "port": True},
        {"name": "b", "host": "x y"}, {"name": "b", "host": "x", "port": 65536}, {"name": "b\n", "host": "x"},
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_used_is_told_and_costs_no_other(entry: object) -> None:
    listed = parse_list(json.dumps([{"name": "a", "host": "10.0.0.1"}, entry, {"name": "z", "host": "z"}]).encode())
    assert set(listed.hosts) == {"a", "z"}
    (problem,) = listed.problems
    assert problem.startswith("entry 2: ")
    assert len(problem) < 200


def test_a_limit_on_the_hosts() -> None:
    listed = parse_list(json.dumps([{"name": f"h{n}", "host": "x"} for n in range(HOSTS_MAX + 5)]).encode())
    assert len(listed.hosts) == HOSTS_MAX
    assert len(listed.problems) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"7", b'"x"', b"{}", b'{"hosts": {}}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_list_of_hosts(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is"):
        parse_list(content)


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, Unavailable.REFUSED), (errno.ECONNRESET, Unavailable.REFUSED),
        (errno.EHOSTUNREACH, Unavailable.UNREACHABLE), (errno.ENETUNREACH, Unavailable.UNREACHABLE),
        (errno.ENETDOWN, Unavailable.UNREACHABLE), (errno.ETIMEDOUT, Unavailable.TIMEOUT),
        (errno.EPERM, Unavailable.PERMISSION), (errno.EACCES, Unavailable.PERMISSION),
        (errno.EMFILE, Unavailable.ERROR), (errno.ENOBUFS, Unavailable.ERROR), (errno.EAFNOSUPPORT, Unavailable.ERROR),
    ],
)  # fmt: skip
def test_what_the_kernel_says_of_a_connection(number: int, reason: Unavailable) -> None:
    """What is about us is never told as the host's."""
    error = failed(OSError(number, os.strerror(number)), Host("10.0.0.1", 2222))
    assert error.reason is reason
    assert "10.0.0.1 port 2222" in str(error)


# --- the file of a running probe ------------------------------------------------------------------------------------


class Wishes:
    def __init__(self) -> None:
        self.news = asyncio.Event()

    def read_soon(self, target_id: str, in_s: float) -> None:
        del target_id, in_s

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        self.news.set()

    async def change(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self.news.wait()
        self.news.clear()


def write(path: Path, *names: str) -> None:
    """As a good writer does: beside it, then in its place."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"hosts": [{"name": name, "host": "127.0.0.1:1"} for name in names]}))
    beside.replace(path)


def probe_of(path: Path | str, **hosts: FleetHost) -> FleetProbe:
    return FleetProbe(Config(fleet=FleetSection(hosts_file=str(path), hosts=hosts, timeout=Duration(1))))


def ids(probe: FleetProbe) -> list[str]:
    return sorted(source.source_id for source in probe.sources())


def run(probe: FleetProbe, script: Callable[[Wishes], Awaitable[None]]) -> None:
    async def main() -> None:
        wishes = Wishes()
        probe.watch(wishes)
        try:
            await script(wishes)
        finally:
            probe.close()

    asyncio.run(main())


def data(reading: HealthReading) -> FleetData:
    assert reading.available, reading.error
    assert isinstance(reading.data, FleetData)
    return reading.data


@pytest.mark.req("FR-001")
def test_the_hosts_file_is_read_at_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "LOOK_S", 0.02)
    path = tmp_path / "fleet.json"
    write(path, "a", "b")
    probe = probe_of(path, b=FleetHost(address="127.0.0.9", port=9))
    assert ids(probe) == ["fleet:a", "fleet:b"], "before any loop runs"
    assert probe._hosts["b"] == Host("127.0.0.9", 9), "the configuration's counts"

    async def script(wishes: Wishes) -> None:
        write(path, "a", "c")
        await wishes.change()
        assert ids(probe) == ["fleet:a", "fleet:b", "fleet:c"]
        write(path, "c")
        await wishes.change()
        assert ids(probe) == ["fleet:b", "fleet:c"]
        assert data(await probe.read("fleet:a", 5.0)).listed is False
        assert probe.source("fleet:a") is not None, "its last reading has to be sent"
        assert (await probe.read("fleet:c", 5.0)).reason is Unavailable.REFUSED

    run(probe, script)


@pytest.mark.req("FR-001", "R9")
@pytest.mark.parametrize("fault", ["missing", "malformed", "fifo", "directory", "huge"])
def test_a_hosts_file_that_goes_bad_leaves_its_last_good_list(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet, "LOOK_S", 0.02)
    path = tmp_path / "fleet.json"
    write(path, "a")
    probe = probe_of(path)

    async def script(wishes: Wishes) -> None:
        path.unlink()
        spoil(path, fault)
        async with asyncio.timeout(WITHIN_S):
            while "cannot be used" not in caplog.text:
                await asyncio.sleep(0.01)
        assert probe._file is not None
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await asyncio.wrap_future(probe._file.look())
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert caplog.text.count("cannot be used") == 1, "told once"
        assert ids(probe) == ["fleet:a"]
        assert "cannot be used now" in data(await probe.read("fleet:gone", 5.0)).detail
        path.rmdir() if fault == "directory" else path.unlink(missing_ok=True)
        write(path, "a", "b")
        await wishes.change()
        assert ids(probe) == ["fleet:a", "fleet:b"]

    with caplog.at_level(logging.WARNING):
        run(probe, script)


def spoil(path: Path, fault: str) -> None:
    match fault:
        case "malformed":
            path.write_text('{"hosts": [')
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "huge":
            with path.open("wb") as file:
                file.truncate(1 << 32)


@pytest.mark.req("R9")
def test_a_hosts_file_that_was_never_read_says_nothing_of_a_host(tmp_path: Path) -> None:
    """An incident from before a restart must not end because the list is gone."""
    probe = probe_of(tmp_path / "fleet.json")
    assert [source.source_id for source in probe.sources()] == ["fleet:hosts-file"], "so that it is told"

    async def script(wishes: Wishes) -> None:
        for target_id in ("fleet:a", "fleet:hosts-file"):
            reading = await probe.read(target_id, 5.0)
            assert (reading.available, reading.reason) == (False, Unavailable.MISSING)
            assert str(tmp_path) in reading.error

    run(probe, script)


@pytest.mark.req("R9")
def test_what_is_no_host_of_ours(tmp_path: Path) -> None:
    probe = probe_of("")
    for name in ("a", "fleet:", "fleet:A", "fleet:a/b", "disk:/"):
        assert probe.source(name) is None

    async def script(wishes: Wishes) -> None:
        assert (await probe.read("disk:/", 5.0)).reason is Unavailable.ERROR

    run(probe, script)


# --- from outside ---------------------------------------------------------------------------------------------------


def given(source_id: str, found: object, *, available: bool = True, age_s: float = 1.0) -> SourceReading:
    return SourceReading(source_id, clock.wall_s() - age_s, 60_000, available, json.dumps(found).encode())


@pytest.fixture
def known() -> FleetProbe:
    hosts = {name: FleetHost(address="10.0.0.1") for name in ("a", "b")}
    return FleetProbe(Config(fleet=FleetSection(hosts=hosts)))


@pytest.mark.req("NFR-004")
@pytest.mark.parametrize(
    "found",
    [
        {"hosts": [{"name": "a", "reachable": True}, {"name": "b", "reachable": False, "error": "no answer"},
                   {"name": "stranger", "reachable": False}]},
        {"a": {"reachable": True, "latency_ms": 3}, "b": {"reachable": False, "error": "no answer"},
         "stranger": {"reachable": True}},
    ],
)  # fmt: skip
def test_what_the_sites_own_polls_say_of_hosts(known: FleetProbe, found: object) -> None:
    a, b = known.outside(given("fleet.health", found))
    assert (a.target_id, a.external, data(a).address) == ("fleet:a", True, "10.0.0.1")
    assert (b.target_id, b.external, b.reason) == ("fleet:b", True, Unavailable.TIMEOUT)
    assert "no answer" in b.error
    assert a.freshness_ms == 60_000
    assert clock.monotonic_s() - a.taken_mono_s >= 1.0


@pytest.mark.req("NFR-004")
def test_one_host_from_outside(known: FleetProbe) -> None:
    (reading,) = known.outside(given("fleet:a", {"reachable": False}))
    assert reading.reason is Unavailable.TIMEOUT
    assert reading.external


@pytest.mark.req("NFR-004")
@pytest.mark.parametrize(
    ("source_id", "found"),
    [
        ("fleet.health", []), ("fleet.health", None), ("fleet.health", {}), ("fleet.health", {"hosts": []}),
        ("fleet.health", {"a": True}), ("fleet.health", {"a": {"reachable": 1}}),
        ("fleet.health", {"a": {"reachable": "yes"}}), ("fleet.health", {"a": {}}),
        ("fleet.health", {"hosts": [{"name": "a", "reachable": True}] * 2}),
        ("fleet.health", {"hosts": [{"reachable": True}]}), ("fleet.health", {"hosts": ["a"]}),
        ("fleet.health", {"hosts": [{"name": ["a"], "reachable": True}]}),
        ("fleet.health", {"a": {"reachable": True}, "b": {"reachable": None}}),
        ("fleet.health", {"stranger": {"reachable": True}}),
        ("fleet.health", {f"h{n}": {"reachable": True} for n in range(HOSTS_MAX + 1)}),
        ("fleet:a", {"hosts": []}), ("fleet:a", True), ("fleet:stranger", {"reachable": True}),
        ("fleet:", {"reachable": True}), ("augur.signals", {"a": {"reachable": True}}),
    ],
)  # fmt: skip
def test_what_is_refused_from_outside(known: FleetProbe, source_id: str, found: object) -> None:
    with pytest.raises(Refused):
        known.outside(given(source_id, found))


@pytest.mark.req("NFR-004")
def test_old_future_and_failed_readings_from_outside_are_refused(known: FleetProbe) -> None:
    well = {"a": {"reachable": True}}
    for reading in (
        given("fleet.health", well, age_s=61),
        given("fleet.health", well, age_s=-60),
        given("fleet.health", well, available=False),
        SourceReading("fleet.health", clock.wall_s(), 60_000, True, b"[" * 100_000),
        SourceReading("fleet.health", clock.wall_s(), 60_000, True, b"\xff"),
    ):
        with pytest.raises(Refused):
            known.outside(reading)
