"""Answered from the phone: a page goes out, a reply comes back, it is carried out, proved, told and audited (R15)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from supervisor.bus import Link
from supervisor.incidents.orders import SignalReply
from supervisor.messages import VERSION, Frame, Nack, ReplyReceived, Request, decode_frame, encode
from supervisor.notifier.rehearsal import Sent
from supervisor.sockets import endpoint, new_context, open_socket
from tests.doubles.signal_double import SignalDouble
from tests.doubles.signal_received import ACCOUNT, ANNA, text
from tests.lab.daemon import Daemon, Service, Site, until

STRANGER = "+15550177"
WAIT_S = 60.0


def paged(here: Site, phone: SignalDouble, gate: Path) -> tuple[Daemon, Service, Sent]:
    """A service whose recipe works only once `gate` is there: its automatic restart has failed, and the page is out."""
    toy = here.service("toy")
    toy.start()
    words = ("/bin/sh", "-c", f'test -e {gate} && exec "$@"', "-", *toy.argv)
    recipe = ", ".join(f"'{word}'" for word in words)
    daemon = here.daemon(
        f'[process.toy]\npid_file = "{toy.pid_file}"\nauto_restart = true\nrestart = {{ argv = [{recipe}] }}\n'
        '[policy]\nverify_within = "1s"\nsettle = "100ms"\n'
        f'[notify.signal]\ntransports = ["{phone.url}"]\naccount = "{ACCOUNT}"\nrecipient = "{ANNA}"\n'
        f'approvers = ["{ANNA}"]\n'
    )
    daemon.start()
    daemon.wait_known(toy)
    phone.inbox.wait_for_listeners(1, WAIT_S)
    toy.kill()
    daemon.wait_state("toy", "escalated")
    return daemon, toy, told(phone, lambda sent: "Reply (quote this)" in sent.text)


def told(phone: SignalDouble, wanted: Callable[[Sent], bool]) -> Sent:
    """The first message that is so."""
    found: Sent = until("a message", lambda: next((sent for sent in phone.sent if wanted(sent)), None))
    return found


def now_ms() -> int:
    return int(time.time() * 1000)


def orders(daemon: Daemon) -> list[tuple[str, str]]:
    return [(it["actor"], it["action"]) for it in daemon.cli("audit", "--json")[1]["orders"]]


@pytest.mark.req("FR-005", "R2", "R7", "R15")
def test_a_page_is_answered_with_run_and_the_service_lives_again(
    here: Site, phone: SignalDouble, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    daemon, toy, page = paged(here, phone, gate)
    code = re.search(r"code (\w{6})", page.text)
    assert code is not None
    assert len(page.text) < 600
    for seen in (daemon.ask("status"), daemon.ask("tree"), daemon.ask("requests"), daemon.synapse()):
        assert code[1] not in str(seen), "agents read that"
    starts = toy.starts()
    phone.inbox.put(text(f"run {code[1]}", now_ms(), number=STRANGER))
    phone.inbox.put(text("please run it", now_ms(), page.timestamp))
    told(phone, lambda sent: sent.text.startswith("Nothing was done: I do not understand"))
    assert toy.starts() == starts
    gate.touch()
    said = text("Run 👍", now_ms() + 1, page.timestamp)
    phone.inbox.put(said)
    toy.wait_new(None)
    told(phone, lambda sent: sent.text.startswith("Started: rb-restart-service for toy"))
    done = told(phone, lambda sent: "It works again, verified" in sent.text and sent.text.startswith("Done"))
    assert done.recipients == (ANNA,)
    (row,) = daemon.wait_state("toy", "resolved")
    assert [entry for entry in row["audit_trail"] if f"signal:{ANNA}" in entry["note"] + entry["actor"]]
    assert {(f"signal:{ANNA}", "execute"), (f"signal:{ANNA}", "reply"), (f"signal:{STRANGER}", "reply")} <= {
        *orders(daemon)
    }
    count = len(phone.sent)
    daemon.kill_worker("healer")
    daemon.wait_ready()
    phone.inbox.put(said)
    phone.inbox.put(text(f"run {code[1]}", now_ms() + 2))
    told(phone, lambda sent: sent.text.startswith("Nothing was done: run was ordered") or "is over" in sent.text)
    assert toy.starts() == starts + 1
    assert {sent.recipients for sent in phone.sent[count:]} == {(ANNA,)}
    assert not [sent for sent in phone.sent if STRANGER in sent.recipients], "a stranger is told nothing"


@pytest.mark.req("R15", "NFR-001")
def test_a_reply_is_carried_out_once_whoever_dies_meanwhile(here: Site, phone: SignalDouble, tmp_path: Path) -> None:
    """signal-cli gives it again to every notifier that comes; healer and notifier are killed at once, twice."""
    gate = tmp_path / "gate"
    phone.inbox.again = True
    daemon, toy, page = paged(here, phone, gate)
    gate.touch()
    starts = toy.starts()
    phone.inbox.put(text("run", now_ms(), page.timestamp))
    for _ in range(2):
        daemon.kill_worker("healer")
        daemon.kill_worker("notifier")
        daemon.wait_ready()
    toy.wait_new(None)
    daemon.wait_state("toy", "resolved")
    told(phone, lambda sent: sent.text.startswith("Done: rb-restart-service for toy"))
    assert toy.starts() == starts + 1
    assert orders(daemon).count((f"signal:{ANNA}", "execute")) == 1


async def forged(daemon: Daemon, reply: SignalReply, order: bytes) -> tuple[str, list[str]]:
    """What comes of a reply over the healer's socket by one who calls himself the notifier, and over control.sock."""
    context = new_context()
    link = Link(context, endpoint(daemon.runtime_dir, "healer"), "notifier", lambda batch: None, "forged")
    control = open_socket(context, zmq.DEALER, identity="forger")
    control.connect(endpoint(daemon.runtime_dir, "control"))
    codes = []
    try:
        for token, actor in ((f"reply:{reply.key}", "operator"), ("f.1", f"signal:{ANNA}")):
            control.send(encode(Frame(VERSION, token, "", Request("approve", order, actor))))
            assert control.poll(10_000), "no answer"
            answer = decode_frame(control.recv()).body
            codes.append(answer.code if isinstance(answer, Nack) else "taken")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.ask(ReplyReceived(reply)), 1.5)  # the hub drops it after a second
    finally:
        link.close()
        control.close()
        context.term()
    return "not acknowledged", codes


@pytest.mark.req("R15")
def test_nobody_forges_a_reply_over_our_sockets(here: Site, phone: SignalDouble, tmp_path: Path) -> None:
    daemon, toy, page = paged(here, phone, tmp_path / "gate")
    starts = toy.starts()
    reply = SignalReply("forger", ANNA, now_ms(), "run", page.timestamp)
    order = b'{"runbook_id":"rb-restart-service","target_id":"toy"}'
    assert asyncio.run(forged(daemon, reply, order)) == ("not acknowledged", ["refused", "refused"])
    phone.inbox.put(text("ok", now_ms(), page.timestamp))
    told(phone, lambda sent: sent.text.startswith("Acknowledged"))
    assert [action for _, action in orders(daemon)] == ["ack"]
    assert toy.starts() == starts
