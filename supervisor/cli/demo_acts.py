"""The three acts of `healctl demo`, and how they are told: in words, or a line of JSON for each thing that happens.

An act makes a real trouble, follows the daemon's own feed until the incident is over, and then looks for itself whether
all is well. It raises HealError when anything does not go as it should.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from supervisor import clock, proc
from supervisor.cli import output
from supervisor.cli.client import Control, NoAnswer
from supervisor.cli.demo_box import LOOK_S, READY_S, Sandbox
from supervisor.cli.feed import Feed, Item
from supervisor.errors import HealError, NotRunning
from supervisor.notifier.rehearsal import Rehearsal

HEALED_S = 60.0
ORDER_S = 30.0
PAUSE_S = 1.5  # for the eyes of somebody who reads along
PRESSURE = 0.85  # of the disk: the default of [disk] pressure
FULL = 0.88
PAGE_BYTES = 4096
WORKERS = {"store", "healer", "executor", "notifier"}
FAMILIES = {"service": {"process"}, "disk": {"logs", "host"}, "database": {"trading", "database"}}
FAILED = {"self_resolved", "remediation_failed", "dismissed"}
DATABASE = "bot-trades"
TITLES = {"service": "A service dies", "disk": "A disk fills", "database": "A database rots"}


class Times(msgspec.Struct):
    """Milliseconds since the trouble began; the words of the demo's own last line of an act."""

    detected: float = 0.0
    diagnosed: float = 0.0
    repaired: float = 0.0
    verified: float = 0.0

    def note(self, state: str, after_ms: float) -> None:
        if state == "detected":
            self.detected = after_ms
        elif state in ("remediating", "escalated") and not self.diagnosed:
            self.diagnosed = after_ms
        elif state == "verifying":
            self.repaired = after_ms
        elif state == "resolved":
            self.verified = after_ms


class Teller:
    """What is shown. In words an act's lines are indented below its title."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._act = ""
        self._number = 0
        self._began_wall_s = 0.0
        self._left_out: dict[str, str] = {}
        self._healed: dict[str, Times] = {}

    def begin(self, at: Path) -> None:
        self._tell("begin", f"Everything happens in {at}; nothing outside is touched.\n", directory=str(at))

    def leave_out(self, act: str, why: str) -> None:
        self._left_out[act] = why
        self._tell("left_out", f'Left out, "{TITLES[act]}": {why}.', act=act, why=why)

    def act(self, name: str) -> None:
        if sys.stdout.isatty() and self._number:
            time.sleep(PAUSE_S)
        self._act, self._number = name, self._number + 1
        self._tell("act", output.coloured(f"{self._number}. {TITLES[name]}.", "bold"), title=TITLES[name])

    def say(self, text: str) -> None:
        self._tell("say", f"   {output.plain(text)}", text=text)

    def trouble(self, text: str) -> None:
        """What is done to it now; from here on the time counts."""
        self.say(text)
        self._began_wall_s = clock.wall_s()

    def after_ms(self, at_wall_s: float) -> float:
        return (at_wall_s - self._began_wall_s) * 1000

    def happened(self, kind: str, at_wall_s: float, line: str, **data: object) -> None:
        after_ms = self.after_ms(at_wall_s)
        self._tell(kind, f"    +{after_ms:6.0f} ms  {line}", after_ms=round(after_ms, 1), **data)

    def page(self, recipients: tuple[str, ...], text: str) -> None:
        shown = "\n".join(f"    | {output.plain(line) if line else ''}" for line in text.splitlines())
        self._tell("page", f"   On Signal, to {', '.join(recipients)}:\n{shown}", text=text)

    def result(self, times: Times, proof: str) -> None:
        self._healed[self._act] = times
        shown = {name: round(ms) for name, ms in msgspec.structs.asdict(times).items()}
        words = ", ".join(f"{name} {ms} ms" for name, ms in shown.items())
        text = output.coloured(f"   Healed: {words} after it broke. {output.plain(proof)}", "green")
        self._tell("result", text + "\n", healed=True, proof=proof, **{f"{name}_ms": ms for name, ms in shown.items()})

    def summary(self) -> None:
        left = "".join(f" Left out: {act} ({why})." for act, why in self._left_out.items())
        text = f"Healed: {', '.join(self._healed)}.{left} Cleaned up: the daemon, its toys and the directory are gone."
        self._act = ""
        self._tell("summary", text, healed=list(self._healed), left_out=self._left_out)

    def _tell(self, kind: str, words: str, /, **data: object) -> None:
        if self._json:
            about = {"act": self._act} if self._act else {}
            words = msgspec.json.encode({"kind": kind, **about, **data}).decode()
        output.say(words)


class Show:
    """One daemon, and the acts in their order."""

    def __init__(self, sandbox: Sandbox, rehearsal: Rehearsal, teller: Teller) -> None:
        self._sandbox = sandbox
        self._rehearsal = rehearsal
        self._tell = teller
        self._pages = 0
        self._about: dict[str, str] = {}  # incident -> target

    def run(self, acts: list[str]) -> None:
        self._prepare(acts)
        began_s = clock.monotonic_s()
        self._sandbox.start_daemon()
        workers = WORKERS.union(*(FAMILIES[act] for act in acts))
        self._wait("the daemon", lambda: workers <= self._ready())
        took_ms = (clock.monotonic_s() - began_s) * 1000
        self._tell.say(f"healctl runs: {len(workers)} workers ready after {took_ms:.0f} ms. All is well.")
        with Feed(self._sandbox.runtime_dir) as feed:
            feed.snapshot()
            for act in acts:
                self._tell.act(act)
                ACTS[act](self, feed)

    def _prepare(self, acts: list[str]) -> None:
        """What is there before healctl is."""
        if "service" in acts:
            self._sandbox.start("toy", str(self._sandbox.at / "toy.pid"))
            self._sandbox.wait_for_toy()
        if "database" in acts:
            self._sandbox.start("bot", str(self._sandbox.at / "trades.db"), str(self._sandbox.at / "bot.json"))
            self._wait("the bot", lambda: self._bot()["written"] > 0)

    # -- the acts --

    def service(self, feed: Feed) -> None:
        old = self._sandbox.wait_for_toy()
        self._tell.say(f"A toy service runs, pid {old.pid}; healctl did not start it.")
        self._tell.trouble(f"Now it is killed: kill -9 {old.pid}")
        proc.send_signal(old, signal.SIGKILL)
        times = Times()
        self._follow(feed, "toy", times, "resolved", FAILED | {"escalated"})
        new = self._sandbox.wait_for_toy(old)
        self._show_pages()
        self._tell.result(times, f"The service lives again, pid {new.pid}.")

    def disk(self, feed: Feed) -> None:
        folder = self._sandbox.disk
        size, before = _size(folder), _used(folder)
        self._tell.say(f"A disk of {size / 1024**2:.0f} MiB, {before:.0%} in use.")
        self._tell.say("Now a program writes its log there, and does not stop.")
        self._sandbox.start("chatty", str(folder / "chatty.log"), str(FULL))
        self._wait("the trouble", lambda: _used(folder) >= PRESSURE)
        self._tell.trouble(f"It is {PRESSURE:.0%} full.")
        times = Times()
        self._follow(feed, f"disk:{folder}", times, "resolved", FAILED | {"escalated"})
        packed = sum(path.stat().st_size for path in (folder / ".archive").iterdir())
        proof = f"{_used(folder):.0%} in use; what was logged is in archives of {packed / 1024**2:.1f} MiB"
        self._tell.result(times, f"{proof}, and its writer writes on.")

    def database(self, feed: Feed) -> None:
        path = self._sandbox.at / "trades.db"
        rows = self._asked()["rows"]
        self._tell.say(
            f"A trading bot keeps its {rows} trades in an SQLite database, and writes it ten times a second."
        )
        copied = self._order("execute", runbook_id="rb-db-backup", target_id=DATABASE, confirm=True)
        if not copied["success"]:
            raise HealError(f"no good copy of the database: {copied['steps_executed']}")
        self._tell.say(f"healctl copies it every day, and does so now: {copied['steps_executed'][0]['output']}")
        self._tell.trouble(f"Now {PAGE_BYTES} bytes in its middle are overwritten with rubbish.")
        _rot(path)
        times = Times()
        self._follow(feed, DATABASE, times, "escalated", FAILED)
        self._wait("the halt", lambda: bool(self._bot()["error"]))
        bot = self._bot()
        self._tell.say(f"Nobody writes it now, the bot included: {bot['error']}.")
        self._show_pages()
        self._tell.say("To put another file in its place is for a person to decide. You approve; the demo plays you:")
        self._tell.say(f"$ healctl heal approve rb-db-restore --target {DATABASE}")
        self._order("approve", runbook_id="rb-db-restore", target_id=DATABASE)
        self._follow(feed, DATABASE, times, "resolved", FAILED)
        asked = self._asked()
        if asked != {"rows": rows, "integrity": "ok"}:
            raise HealError(f"the database is not what it was: {asked}, it had {rows} trades")
        written = bot["written"]
        self._wait("the bot's writing", lambda: self._bot()["written"] > written and not self._bot()["error"])
        self._show_pages()
        self._tell.result(times, f"integrity_check says ok, all {rows} trades are there, and the bot writes on.")

    # -- what they are made of --

    def _follow(self, feed: Feed, target: str, times: Times, wanted: str, unless: set[str]) -> None:
        """Tells what happens to the target until its incident stands as `wanted`. Raises HealError if it ends
        otherwise, or not in time."""
        until_s = clock.monotonic_s() + HEALED_S
        while clock.monotonic_s() < until_s:
            self._sandbox.look()
            item = feed.next(100)
            if item is None:
                continue
            data = item.data
            if item.kind == "incident":
                self._about[data["id"]] = data["target_id"]
            elif item.kind == "trail" and self._about.get(data["incident_id"]) == target:
                state, text = data["state"], _trail_text(item)
                times.note(state, self._tell.after_ms(item.at_wall_s))
                shown = text if text.startswith(state) else f"{output.state(state)}: {text}"
                self._tell.happened("trail", item.at_wall_s, shown, state=state, text=text, actor=data["actor"])
                if state == wanted:
                    return
                if state in unless:
                    raise HealError(f"the incident ended as {state}, not as {wanted}")
        raise HealError(f"the incident was not {wanted} within {HEALED_S:g} s")

    def _order(self, action: str, **args: object) -> dict[str, Any]:
        with Control(self._sandbox.runtime_dir) as control:
            answer: dict[str, Any] = msgspec.json.decode(control.ask(action, args, ORDER_S))
            return answer

    def _show_pages(self) -> None:
        """Those since the last time: there is one, for what is critical."""
        try:
            sent = self._rehearsal.wait_for(self._pages + 1, READY_S)
        except TimeoutError as error:
            raise HealError(f"no Signal message: {error}") from error
        for message in sent[self._pages :]:
            self._tell.page(message.recipients, message.text)
        self._pages = len(sent)

    def _wait(self, what: str, look: Callable[[], bool]) -> None:
        until_s = clock.monotonic_s() + READY_S
        while not look():
            self._sandbox.look()
            if clock.monotonic_s() > until_s:
                raise HealError(f"{what} was not there within {READY_S:g} s")
            time.sleep(LOOK_S)

    def _ready(self) -> set[str]:
        try:
            with Control(self._sandbox.runtime_dir) as control:
                rows = msgspec.json.decode(control.ask("tree", deadline_s=1.0))["children"]
        except (NotRunning, NoAnswer):
            return set()  # not yet
        return {row["name"] for row in rows if row["state"] == "ready"}

    def _bot(self) -> dict[str, Any]:
        """What the bot's last try to write came to."""
        said = self._sandbox.at / "bot.json"
        return msgspec.json.decode(said.read_bytes(), type=dict[str, Any]) if said.exists() else {"written": 0}

    def _asked(self) -> dict[str, Any]:
        return msgspec.json.decode(self._sandbox.ask_database(), type=dict[str, Any])


ACTS: dict[str, Callable[[Show, Feed], None]] = {
    "service": Show.service,
    "disk": Show.disk,
    "database": Show.database,
}


def _rot(path: Path) -> None:
    """What a stray write or a bad disk does; in the file itself, whose log was cut back since."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // PAGE_BYTES // 2 * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)


def _used(folder: Path) -> float:
    """As df counts it."""
    now = os.statvfs(folder)
    return (now.f_blocks - now.f_bfree) / (now.f_blocks - now.f_bfree + now.f_bavail)


def _size(folder: Path) -> int:
    now = os.statvfs(folder)
    return now.f_blocks * now.f_frsize


def _trail_text(item: Item) -> str:
    text = output.plain(item.data["note"])
    said = str(item.data.get("output") or "").strip()
    return f"{text} ({output.plain(said)})" if said and said not in text else text
