"""A real notifier with everything around it: the root's end of its socket pair, and a healer that only takes reports.

`Lab` runs the worker in the test's own event loop; `NotifierProcess` runs it in a process of its own, to be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from supervisor import bus
from supervisor.config import Config, Duration, NotifySection, SignalSection, SynapseSection, TreeSection
from supervisor.incidents.model import Channel, OutboxRow, Tier
from supervisor.incidents.orders import SignalReply
from supervisor.messages import (
    Ack,
    Body,
    Deliver,
    DeliveryReport,
    Finished,
    Frame,
    Hello,
    Ready,
    ReplyReceived,
    Stop,
    Up,
    Working,
    decode_up,
    encode,
)
from supervisor.notifier import backoff, process, signal_cli
from supervisor.notifier.process import NotifierWorker
from supervisor.notifier.signal_cli import SignalCli
from supervisor.worker import Boot, run

WAIT_S = 60.0


def config(
    *transports: str, synapse: str = "brain_db", shutdown_s: float = 2.0, approvers: tuple[str, ...] = ()
) -> Config:
    return msgspec.structs.replace(
        Config(),
        notify=NotifySection(
            signal=SignalSection(
                transports=transports, account="+15550100", recipient="+15550101", approvers=approvers
            ),
            synapse=SynapseSection(transport=synapse),
        ),
        tree=msgspec.structs.replace(TreeSection(), shutdown=Duration(shutdown_s)),
    )


def row(row_id: str, channel: Channel = Channel.SIGNAL, tier: Tier = Tier.PAGE, attempts: int = 0) -> OutboxRow:
    return OutboxRow(
        id=row_id,
        incident_id="inc_1",
        covers=("inc_1",),
        channel=channel,
        tier=tier,
        kind="page",
        priority="urgent",
        subject=f"subject {row_id}",
        body=f"body of {row_id}",
        created_wall_s=1_800_000_000.0,
        attempts=attempts,
    )


class Healer:
    """The bound side. Acknowledges every report but while `deaf`; keeps them in order."""

    def __init__(self, runtime_dir: Path) -> None:
        self.reports: list[DeliveryReport] = []
        self.replies: list[SignalReply] = []
        self.hellos = 0
        self.deaf = False
        self._changed = asyncio.Event()
        self.context = bus.new_context()
        self.hub = bus.Hub(self.context, bus.endpoint(runtime_dir, "healer"), "healer", self._on_frames)

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        for source, frame in batch:
            if isinstance(frame.body, DeliveryReport):
                self.reports.append(frame.body)
                if not self.deaf:
                    self.hub.answer(source, frame, Ack())
            elif isinstance(frame.body, ReplyReceived):
                self.replies.append(frame.body.reply)
                if not self.deaf:
                    self.hub.answer(source, frame, Ack())
            elif isinstance(frame.body, Hello):
                self.hellos += 1
        self._changed.set()

    def deliver(self, one: OutboxRow) -> asyncio.Future[Body]:
        return self.hub.request("notifier", Deliver(one))

    async def until(self, true: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Looks again after every frame; raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    async def report(self, row_id: str, timeout_s: float = WAIT_S, receipt: bool = True) -> DeliveryReport:
        """The first report on the row that has (or has not) a receipt."""

        def found() -> list[DeliveryReport]:
            return [one for one in self.reports if one.row_id == row_id and bool(one.receipt) is receipt]

        await self.until(lambda: bool(found()), timeout_s)
        return found()[0]

    def of(self, row_id: str) -> list[DeliveryReport]:
        return [one for one in self.reports if one.row_id == row_id]

    def close(self) -> None:
        self.hub.close()
        self.context.term()


class Lab:
    """`async with Lab(config(...)) as lab`: worker, healer, and `ups`, what the worker told the root."""

    def __init__(
        self, settings: Config, suspects: frozenset[str] = frozenset(), quarantined: frozenset[str] = frozenset()
    ) -> None:
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="hc"))
        self._boot = Boot(
            name="notifier",
            incarnation="n1",
            config=settings,
            state_dir=self.runtime_dir,
            runtime_dir=self.runtime_dir,
            root_pid=os.getpid(),
            suspects=suspects,
            quarantined=quarantined,
        )
        self._root, self._child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._root.setblocking(False)
        self.ups: list[Up] = []

    async def __aenter__(self) -> Self:
        self.healer = Healer(self.runtime_dir)
        asyncio.get_running_loop().add_reader(self._root.fileno(), self.drain)  # a worker waits for a root that is full
        self.worker = NotifierWorker(self._boot, self._child)
        self.main = asyncio.get_running_loop().create_task(self.worker.main())
        await self.healer.until(lambda: self.healer.hellos > 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            self.drain()
            if not self.main.done():
                self._root.send(encode(Stop()))
            async with asyncio.timeout(WAIT_S):
                await self.main
        finally:
            self.drain()
            asyncio.get_running_loop().remove_reader(self._root.fileno())
            gc.unfreeze()
            self.healer.close()
            self._root.close()
            self._child.close()
            shutil.rmtree(self.runtime_dir)

    def drain(self) -> list[Up]:
        while True:
            try:
                packet = self._root.recv(65536)
            except BlockingIOError:
                return self.ups
            if not packet:
                return self.ups
            self.ups.append(decode_up(packet))

    def in_work(self) -> list[set[str]]:
        """The set of items in work after each Working and Finished, in order."""
        now: set[str] = set()
        history: list[set[str]] = []
        for up in self.drain():
            if isinstance(up, Working):
                now.add(up.item)
            elif isinstance(up, Finished):
                now.discard(up.item)
            history.append(set(now))
        return history


class NotifierProcess:
    """A notifier as a process of its own; the test is its root. `crash`: the value of HEALCTL_TEST_CRASH. `pace_s`: the
    first interval of its schedule, the others in proportion; 0 for the real one."""

    def __init__(
        self, runtime_dir: Path, settings: Config, incarnation: str, crash: str = "", pace_s: float = 0.0
    ) -> None:
        self._root, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._root.settimeout(WAIT_S)
        self._draining: threading.Thread | None = None
        boot = Boot("notifier", incarnation, settings, runtime_dir, runtime_dir, os.getpid())
        with child:
            os.set_inheritable(child.fileno(), True)
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "tests.doubles.notifier_lab", str(child.fileno()), pickle.dumps(boot).hex(),
                    str(pace_s),
                ],
                pass_fds=[child.fileno()],
                env={**os.environ, "HEALCTL_TEST_CRASH": crash},
            )  # fmt: skip

    def wait_ready(self) -> None:
        """From then on, what it says is taken and thrown away: a worker waits for a root that is full."""
        while not isinstance(decode_up(self._root.recv(65536)), Ready):
            pass
        self._root.settimeout(None)
        self._draining = threading.Thread(target=self._drain, daemon=True)
        self._draining.start()

    def _drain(self) -> None:
        with contextlib.suppress(ConnectionError):  # killed
            while self._root.recv(65536):
                pass

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        code = self.process.wait(WAIT_S)
        if self._draining is not None:
            self._draining.join(WAIT_S)
        self._root.close()
        return code


def main() -> None:
    boot = pickle.loads(bytes.fromhex(sys.argv[2]))
    if pace_s := float(sys.argv[3]):
        backoff.FIRST_S = backoff.LEAST_PAUSE_S = pace_s
        backoff.CAP_PAGE_S = 4 * pace_s
        signal_cli.LOST_TWICE_S = 5.0
        process.SignalCli = partial(SignalCli, attempt_s=60 * pace_s)  # type: ignore[assignment,misc]
    run(NotifierWorker, boot, socket.socket(fileno=int(sys.argv[1])), output=2)


if __name__ == "__main__":
    main()
