"""The fleet probe on real sshds: who is reached, who is not and why, and what its kept connections prove."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from probes import ssh, ssh_dial
from probes.fleet import FleetProbe
from supervisor.config import Config, Duration, FleetHost, FleetSection
from supervisor.incidents.readings import FleetData, HealthReading, Unavailable
from tests import parts
from tests.lab.daemon import until
from tests.lab.sshd import PORT, Lab, Sshd, new_key, silent

DEADLINE_S = 5.0
WITHIN_S = 60.0
_numbers = itertools.count(1)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    parts.openssh()
    made = Lab(tmp_path)
    yield made
    made.close()


def address() -> str:
    """One that no other test uses."""
    return f"127.0.77.{next(_numbers)}"


class Wishes:
    """The runner's ear."""

    def __init__(self) -> None:
        self.soon: list[str] = []
        self.changes = 0
        self.news = asyncio.Event()

    def read_soon(self, target_id: str, in_s: float) -> None:
        del in_s
        self.soon.append(target_id)
        self.news.set()

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        self.changes += 1
        self.news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not true():
                self.news.clear()
                await self.news.wait()


def config(lab: Lab, *hosts: Sshd, timeout_s: float = 5.0, **keys: object) -> Config:
    tables = {f"h{n}": FleetHost(address=host.address, port=PORT) for n, host in enumerate(hosts)}
    section = {"hosts": tables, "user": "root", "identity_file": str(lab.login), "known_hosts": str(lab.known_hosts)}
    return Config(fleet=FleetSection(timeout=Duration(timeout_s), **{**section, **keys}))  # type: ignore[arg-type]


def run(made: Config, script: Callable[[FleetProbe, Wishes], Awaitable[None]]) -> None:
    """In a loop in which, as in the worker, nothing may go wrong unseen."""

    async def main() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        probe, wishes = FleetProbe(made), Wishes()
        probe.watch(wishes)
        try:
            await script(probe, wishes)
        finally:
            probe.close()
        await asyncio.sleep(0)
        assert faults == []

    asyncio.run(main())


def read_once(made: Config, target_id: str = "fleet:h0") -> HealthReading:
    found = []

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        del wishes
        found.append(await probe.read(target_id, DEADLINE_S))

    run(made, script)
    return found[0]


def data(reading: HealthReading) -> FleetData:
    assert reading.available, reading.error
    assert isinstance(reading.data, FleetData)
    return reading.data


def refusal(made: Config) -> tuple[Unavailable, str]:
    reading = read_once(made)
    assert reading.took_ms < DEADLINE_S * 1000
    assert not reading.available
    assert reading.data is None
    return reading.reason, reading.error


# --- reached --------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "FR-002")
def test_a_host_is_reached_and_its_connection_kept_and_used_again(lab: Lab) -> None:
    host = lab.sshd(address())

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        first = data(await probe.read("fleet:h0", DEADLINE_S))
        assert (first.address, first.port, first.kept) == (host.address, PORT, False)
        for _ in range(3):
            again = data(await probe.read("fleet:h0", DEADLINE_S))
            assert again.kept
            assert again.latency_ms > 0
        assert wishes.soon == []

    run(config(lab, host), script)
    assert host.logins() == 1
    assert "Starting session" not in host.text(), "no shell, no command, not even a channel"


@pytest.mark.req("FR-001")
def test_a_connection_that_its_host_ended_is_made_anew_within_the_same_reading(lab: Lab) -> None:
    host = lab.sshd(address())

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        data(await probe.read("fleet:h0", DEADLINE_S))
        host.stop()
        host.start()
        found = data(await probe.read("fleet:h0", DEADLINE_S))
        assert not found.kept
        assert data(await probe.read("fleet:h0", DEADLINE_S)).kept

    run(config(lab, host), script)
    assert host.logins() == 2


@pytest.mark.req("FR-001", "R8")
def test_the_end_of_a_kept_connection_is_told_at_once_but_not_again_and_again(lab: Lab) -> None:
    host = lab.sshd(address())

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        data(await probe.read("fleet:h0", DEADLINE_S))
        host.stop()
        await wishes.until(lambda: wishes.soon == ["fleet:h0"])
        assert (await probe.read("fleet:h0", DEADLINE_S)).reason is Unavailable.REFUSED
        host.start()
        assert not data(await probe.read("fleet:h0", DEADLINE_S)).kept
        host.stop()
        await asyncio.sleep(0.2)
        assert wishes.soon == ["fleet:h0"], "once an interval"

    run(config(lab, host), script)


@pytest.mark.req("FR-001")
def test_a_kept_connection_is_made_anew_after_a_while(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lab.sshd(address())
    monkeypatch.setattr(ssh, "RENEW_S", 0.0)

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        for _ in range(2):
            assert not data(await probe.read("fleet:h0", DEADLINE_S)).kept
        host.stop(sessions=False)  # nobody can log in any more, though a kept connection would live
        assert (await probe.read("fleet:h0", DEADLINE_S)).reason is Unavailable.REFUSED

    run(config(lab, host), script)
    assert host.logins() == 2


def test_more_hosts_than_descriptors_are_reached_without_keeping_all(lab: Lab) -> None:
    hosts = [lab.sshd(address()) for _ in range(2)]

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        probe._connections._kept_max = 1
        for _ in range(2):
            kept = [data(await probe.read(f"fleet:h{n}", DEADLINE_S)).kept for n in range(2)]
        assert kept == [True, False]
        assert wishes.soon == []

    run(config(lab, *hosts), script)


@pytest.mark.req("FR-001")
def test_a_new_configuration_keeps_what_is_the_same_and_drops_the_rest(lab: Lab) -> None:
    hosts = [lab.sshd(address()) for _ in range(2)]

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        for name in ("h0", "h1"):
            data(await probe.read(f"fleet:{name}", DEADLINE_S))
        probe.reconfigure(config(lab, hosts[0], timeout_s=3.0))
        assert wishes.changes == 1
        assert [source.source_id for source in probe.sources()] == ["fleet:h0"]
        assert data(await probe.read("fleet:h0", DEADLINE_S)).kept
        gone = data(await probe.read("fleet:h1", DEADLINE_S))
        assert gone.listed is False
        probe.reconfigure(config(lab, hosts[0], user="nobody"))
        assert (await probe.read("fleet:h0", DEADLINE_S)).reason is Unavailable.AUTHENTICATION

    run(config(lab, *hosts), script)


# --- not reached: each reason ---------------------------------------------------------------------------------------


@pytest.mark.req("FR-002", "R9")
def test_nobody_listens(lab: Lab) -> None:
    host = lab.sshd(address())
    host.stop()
    assert refusal(config(lab, host))[0] is Unavailable.REFUSED


@pytest.mark.req("FR-002", "R9")
def test_a_host_that_hangs_is_a_timeout(lab: Lab) -> None:
    host = lab.sshd(address())
    host.signal(signal.SIGSTOP)
    reason, text = refusal(config(lab, host, timeout_s=1.0))
    assert reason is Unavailable.TIMEOUT
    assert "says nothing" in text


@pytest.mark.req("FR-002", "R9")
def test_a_host_that_hangs_behind_its_kept_connection_is_a_timeout_at_the_next_reading(lab: Lab) -> None:
    host = lab.sshd(address())

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        data(await probe.read("fleet:h0", DEADLINE_S))
        host.signal(signal.SIGSTOP)
        began_s = time.monotonic()
        assert (await probe.read("fleet:h0", DEADLINE_S)).reason is Unavailable.TIMEOUT
        assert time.monotonic() - began_s < DEADLINE_S
        host.signal(signal.SIGCONT)
        assert not data(await probe.read("fleet:h0", DEADLINE_S)).kept

    run(config(lab, host, timeout_s=2.5), script)


@pytest.mark.req("R9")
def test_a_host_that_greets_and_then_hangs_is_a_timeout(lab: Lab) -> None:
    where = address()
    with socket.create_server((where, PORT)) as server:
        made = config(lab, timeout_s=1.0, hosts={"h0": FleetHost(address=where, port=PORT)})

        async def script(probe: FleetProbe, wishes: Wishes) -> None:
            reading = asyncio.create_task(probe.read("fleet:h0", DEADLINE_S))
            peer, _ = await asyncio.to_thread(server.accept)
            peer.sendall(b"SSH-2.0-hung\r\n")
            found = await reading
            peer.close()
            assert found.reason is Unavailable.TIMEOUT
            assert "handshake" in found.error

        run(made, script)


@pytest.mark.req("R9", "NFR-001")
def test_an_unknown_host_key_is_never_reachable_and_says_what_to_do(lab: Lab) -> None:
    host = lab.sshd(address())
    lab.known_hosts.write_text("")
    reason, text = refusal(config(lab, host))
    assert reason is Unavailable.HOST_KEY
    assert "is unknown" in text
    assert f"ssh-keyscan -p {PORT} {host.address}" in text
    assert "SHA256:" in text
    assert lab.known_hosts.read_text() == "", "known_hosts is never written"
    lab.known_hosts.unlink()
    assert refusal(config(lab, host))[0] is Unavailable.HOST_KEY
    assert not lab.known_hosts.exists()
    assert host.logins() == 0


@pytest.mark.req("R9", "NFR-001")
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_changed_host_key_is_a_failure_of_its_own(lab: Lab, kind: str) -> None:
    host = lab.sshd(address())
    host.stop()
    new_key(host.key, kind=kind)
    host.start()
    reason, text = refusal(config(lab, host))
    assert reason is Unavailable.HOST_KEY
    assert "HAS CHANGED" in text
    assert "attack" in text
    assert f"ssh-keygen -R '[{host.address}]:{PORT}'" in text
    assert host.logins() == 0


@pytest.mark.req("R9")
def test_a_revoked_host_key(lab: Lab) -> None:
    host = lab.sshd(address())
    lab.known_hosts.write_text("@revoked " + host.known())
    reason, text = refusal(config(lab, host))
    assert reason is Unavailable.HOST_KEY
    assert "revoked" in text


@pytest.mark.req("R9")
def test_a_host_key_that_becomes_known_is_taken_up(lab: Lab) -> None:
    host = lab.sshd(address())
    lab.known_hosts.write_text("this is no line of known_hosts\n")

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        assert (await probe.read("fleet:h0", DEADLINE_S)).reason is Unavailable.HOST_KEY
        with lab.known_hosts.open("a") as file:
            file.write(host.known())
        data(await probe.read("fleet:h0", DEADLINE_S))

    run(config(lab, host), script)


@pytest.mark.req("R9")
def test_a_key_that_may_not_log_in(lab: Lab, tmp_path: Path) -> None:
    host = lab.sshd(address())
    reason, text = refusal(config(lab, host, identity_file=str(new_key(tmp_path / "stranger"))))
    assert reason is Unavailable.AUTHENTICATION
    assert "root" in text


@pytest.mark.req("R9")
def test_an_identity_that_needs_a_passphrase_or_is_none_says_so(lab: Lab, tmp_path: Path) -> None:
    host = lab.sshd(address())
    reason, text = refusal(config(lab, host, identity_file=str(new_key(tmp_path / "locked", "secret"))))
    assert (reason, "passphrase" in text) == (Unavailable.AUTHENTICATION, True)
    (tmp_path / "nonsense").write_text("not a key")
    assert refusal(config(lab, host, identity_file=str(tmp_path / "nonsense")))[0] is Unavailable.AUTHENTICATION
    assert refusal(config(lab, host, identity_file=str(tmp_path / "none")))[0] is Unavailable.MISSING
    os.mkfifo(tmp_path / "pipe")
    assert refusal(config(lab, host, identity_file=str(tmp_path / "pipe")))[0] is Unavailable.ERROR
    assert refusal(config(lab, host, known_hosts=str(tmp_path / "pipe")))[0] is Unavailable.ERROR
    assert refusal(config(lab, host, known_hosts=str(tmp_path)))[0] is Unavailable.ERROR
    assert host.logins() == 0


@pytest.mark.req("R9")
def test_files_that_cannot_be_read_in_time_keep_no_kept_connection_waiting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [lab.sshd(address()) for _ in range(2)]
    ended = asyncio.Event()

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        data(await probe.read("fleet:h0", DEADLINE_S))

        async def never() -> None:  # as on a dead mount
            await ended.wait()

        monkeypatch.setattr(probe._connections._files, "load", never)
        other = asyncio.create_task(probe.read("fleet:h1", DEADLINE_S))
        assert data(await probe.read("fleet:h0", DEADLINE_S)).kept
        assert not other.done()
        assert (await other).reason is Unavailable.ERROR

    run(config(lab, *hosts, timeout_s=3.0), script)


@pytest.mark.req("R9")
def test_a_name_that_does_not_resolve(lab: Lab) -> None:
    for name in ("no-such-host.invalid", "a" * 64 + ".example", "no-such-alias", "no host", "no\0host"):
        reason, text = refusal(config(lab, hosts={"h0": FleetHost(address=name, port=PORT)}))
        assert reason is Unavailable.DNS, text
        assert name in text


@pytest.mark.req("R9")
def test_a_resolver_that_hangs_delays_nobody_else(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lab.sshd(address())
    made = config(lab, host, timeout_s=3.0)
    tables = {**made.fleet.hosts, "slow": FleetHost(address="slow.example")}
    ended = asyncio.Event()
    real, began = ssh_dial._look_up, []

    def slow(asked: ssh_dial.Host) -> list[ssh_dial.Place]:
        began.append(asked)
        while not ended.is_set():
            time.sleep(0.01)
        return real(ssh_dial.Host("127.0.0.1"))

    monkeypatch.setattr(ssh_dial, "_look_up", slow)

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        late = asyncio.create_task(probe.read("fleet:slow", DEADLINE_S))
        data(await probe.read("fleet:h0", DEADLINE_S))
        assert (await late).reason is Unavailable.DNS
        assert (await probe.read("fleet:slow", DEADLINE_S)).reason is Unavailable.DNS
        assert len(began) == 1, "one thread for one name"
        ended.set()
        while ssh_dial._lookups:
            await asyncio.sleep(0.01)

    run(config(lab, timeout_s=3.0, hosts=tables), script)


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"220 mail.example ESMTP\r\n", Unavailable.BAD_DATA),
        (b"SSH-1.5-old\r\n", Unavailable.BAD_DATA),
        (b"SSH-2.0-x\r\n" + b"\xff" * 256, Unavailable.BAD_DATA),
        (b"SSH-2.0-x\r\n", Unavailable.REFUSED),
        (b"", Unavailable.REFUSED),
    ],
    ids=["mail", "ssh1", "garbage", "greets and goes", "goes"],
)
def test_what_is_no_ssh_server(lab: Lab, answer: bytes, reason: Unavailable) -> None:
    where = address()
    with socket.create_server((where, PORT)) as server:

        async def script(probe: FleetProbe, wishes: Wishes) -> None:
            reading = asyncio.create_task(probe.read("fleet:h0", DEADLINE_S))
            peer, _ = await asyncio.to_thread(server.accept)
            peer.sendall(answer)
            peer.shutdown(socket.SHUT_WR)
            found = await reading
            peer.close()
            assert found.reason is reason, found.error

        run(config(lab, hosts={"h0": FleetHost(address=where, port=PORT)}), script)


# --- many -----------------------------------------------------------------------------------------------------------


@pytest.mark.req("R9", "FR-001")
def test_half_of_twenty_hosts_hang_and_every_reading_comes_within_five_seconds(lab: Lab) -> None:
    good = [lab.sshd(address()) for _ in range(2)]
    stuck = lab.sshd(address())
    stuck.signal(signal.SIGSTOP)
    mute = address()
    tables = {f"good{n}": FleetHost(address=good[n % 2].address, port=PORT) for n in range(10)}
    tables |= {f"stuck{n}": FleetHost(address=stuck.address, port=PORT) for n in range(5)}
    tables |= {f"mute{n}": FleetHost(address=mute, port=PORT) for n in range(5)}

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        for turn in range(2):
            readings = await asyncio.gather(*(probe.read(source.source_id, DEADLINE_S) for source in probe.sources()))
            for reading in readings:
                assert reading.took_ms < DEADLINE_S * 1000
                if "good" in reading.target_id:
                    assert data(reading).kept is (turn == 1)
                else:
                    assert reading.reason is Unavailable.TIMEOUT, reading.error

    with silent(mute):
        run(config(lab, timeout_s=3.0, hosts=tables), script)


@pytest.mark.req("R9")
def test_a_reading_that_is_cancelled_leaves_nothing_behind(lab: Lab) -> None:
    host = lab.sshd(address())
    mute = address()
    tables = {"h0": FleetHost(address=host.address, port=PORT), "mute": FleetHost(address=mute, port=PORT)}

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for turns in range(25):  # at every await of a login
            reading = asyncio.create_task(probe.read("fleet:h0", DEADLINE_S))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            probe._connections.drop("h0")
        hung = asyncio.create_task(probe.read("fleet:mute", DEADLINE_S))
        await asyncio.sleep(0.05)
        hung.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hung
        async with asyncio.timeout(WITHIN_S):
            while len(os.listdir("/proc/self/fd")) > before:
                await asyncio.sleep(0.01)
        assert data(await probe.read("fleet:h0", DEADLINE_S)).kept is False
        again = asyncio.create_task(probe.read("fleet:h0", DEADLINE_S))
        await asyncio.sleep(0)
        again.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await again
        assert data(await probe.read("fleet:h0", DEADLINE_S)).kept, "a cancelled question costs no connection"

    with silent(mute):
        run(config(lab, hosts=tables), script)


# --- who logs in ----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without any key, and no agent."""
    (tmp_path / "home/.ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "home/.ssh"


@pytest.mark.req("R9")
def test_without_an_identity_file_the_usual_keys_and_known_hosts_serve(lab: Lab, home: Path) -> None:
    host = lab.sshd(address())
    made = config(lab, host, identity_file="", known_hosts="")
    assert refusal(made)[0] is Unavailable.HOST_KEY
    lab.known_hosts.rename(home / "known_hosts")
    assert refusal(made)[0] is Unavailable.AUTHENTICATION
    new_key(home / "id_ed25519", "secret")
    reason, text = refusal(made)
    assert (reason, "id_ed25519 has a passphrase" in text) == (Unavailable.AUTHENTICATION, True)
    lab.login.rename(home / "id_rsa")
    assert data(read_once(made)).kept is False


@pytest.mark.req("R9")
def test_the_agents_keys_serve_and_its_connections_are_not_kept(
    lab: Lab, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [lab.sshd(address()) for _ in range(2)]
    made = config(lab, *hosts, identity_file="")
    socket_path = home / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL)
    try:
        until("the agent", socket_path.exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        assert refusal(made)[0] is Unavailable.AUTHENTICATION, "it has no key yet"
        subprocess.run(["ssh-add", "-q", str(lab.login)], check=True, stdin=subprocess.DEVNULL)

        async def script(probe: FleetProbe, wishes: Wishes) -> None:
            for turn in range(2):
                for n in range(2):
                    assert data(await probe.read(f"fleet:h{n}", DEADLINE_S)).kept is (turn == 1)
            async with asyncio.timeout(WITHIN_S):
                while Path("/proc/net/unix").read_text().count(str(socket_path)) > 1:  # besides the listening one
                    await asyncio.sleep(0.01)

        run(made, script)
        agent.send_signal(signal.SIGSTOP)
        reason, text = refusal(made)
        assert (reason, "does not answer" in text) == (Unavailable.AUTHENTICATION, True)
        assert data(read_once(config(lab, *hosts))).kept is False, "with an identity file it is not asked"
    finally:
        agent.kill()
        agent.wait(60)
    assert "cannot be used" in refusal(made)[1]


@pytest.mark.req("R9")
def test_a_login_that_ends_after_its_probe_has_closed_is_not_kept(lab: Lab) -> None:
    host = lab.sshd(address())

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        connections = probe._connections
        reading = asyncio.create_task(probe.read("fleet:h0", DEADLINE_S))
        await asyncio.sleep(0)
        probe.reconfigure(config(lab, user="somebody-else"))
        data(await reading)
        assert connections._kept == {}
        assert probe._connections._kept == {}

    run(config(lab, host), script)


@pytest.mark.req("R9")
def test_a_host_that_we_have_no_time_for_is_not_called_unreachable(lab: Lab) -> None:
    host = lab.sshd(address())

    async def script(probe: FleetProbe, wishes: Wishes) -> None:
        for _ in range(ssh.HANDSHAKES_MAX):
            await probe._connections._turns.acquire()
        reading = await probe.read("fleet:h0", DEADLINE_S)
        assert reading.reason is Unavailable.ERROR
        assert wishes.soon == ["fleet:h0"], "again soon, not at its next poll"
        probe._connections._turns.release()
        data(await probe.read("fleet:h0", DEADLINE_S))
        assert probe._connections._turns._value == 1, "a turn is given back once"

    run(config(lab, host, timeout_s=3.0), script)
