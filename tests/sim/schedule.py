"""The explicit list of what happens, generated from a seed: what to leave out when a failure is shrunk.

An event is (seconds from the start, kind, arguments). Nothing else is random: with the same site and the same list the
run is the same.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from supervisor.incidents.drill_run import TARGET as DRILL
from tests.sim.faults import MESSAGES, NEVER_LOST, OWNER
from tests.sim.site import HOSTS, SIZES, TASKS, site

WARM_S = 2.0  # everybody has started by then
SPAN_S = 900.0
DEEP_EVERY, DEEP_SPAN_S = 50, 9_000.0  # some are long: breakers half-open, runbooks graduate, pages are repeated
DENSE_EVERY, DENSE_AT = 20, 7  # some are dense: what happens meets the repair of what happened before


class Event(msgspec.Struct, frozen=True, array_like=True):
    at_s: float
    kind: str
    args: tuple[Any, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """One run. `real`: on the real ledger."""

    seed: int
    size: str
    real: bool
    events: tuple[Event, ...]
    page_healed: bool = True


FAULTS = tuple(
    [f"fault lose {kind}" for kind in MESSAGES if kind not in NEVER_LOST]
    + [f"fault {what} {kind}" for what in ("double", "delay") for kind in MESSAGES]
    + [f"fault crash {point}" for point in OWNER]
    + [f"fault kill {name}" for name in ("store", "healer", "executor", "notifier", "root", "probe")]
    + [f"fault hang {name}" for name in ("store", "healer", "executor", "notifier")]
    + [
        "fault wall forward",
        "fault wall back",
        "fault suspend machine",
        "fault stall machine",
        "fault slow_disk store",
        "fault slow_disk evidence",
        "fault full_disk ledger",
        "fault phone off",
        "fault phone hangs",
        "fault synapse locked",
        "fault slow probe",
        "fault blind probe",
        "fault slow plan",
        "fault partition fleet",
        "fault reload site",
        "fault loop worker",
        "fault large ledger",
    ]
)
# What is answered to a page, and the ways of not meaning it.
WORDS = (
    *("ok",) * 4, *("run",) * 7, *("approve",) * 4, "undo", "undo", "dismiss", "dismiss 2h planned", "why", "confirm",
    "confirm", "", "no", "run?", "run undo",
)  # fmt: skip
WRONGLY = ("bare", "bare", "other", "crossed", "unknown", "foreign", "early")
# Kinds of messages that few runs send: armed more often.
RARE = ("settle", "epoch", "fetch", "program", "plan", "cancel", "reply")


def generate(seed: int, *, real_every: int = 50) -> Plan:
    """The run of this seed."""
    rng = random.Random(f"healctl {seed}")
    size = rng.choices(SIZES, (5, 6, 4))[0]
    maker = _Maker(rng, size)
    events: list[Event] = []
    at_s = WARM_S
    deep, dense = seed % DEEP_EVERY == 0, seed % DENSE_EVERY == DENSE_AT
    for _ in range(rng.randint(40, 60) if deep or dense else rng.randint(6, 14)):
        gap_s = rng.expovariate(1.0) * rng.choice((0.3, 5.0, 30.0, 240.0 if deep else 60.0))
        at_s += gap_s / 2 if dense else gap_s
        if at_s > (DEEP_SPAN_S if deep else SPAN_S):
            break
        events += maker.happening(at_s)
    events.sort(key=lambda event: event.at_s)
    return Plan(seed, size, seed % real_every == 0, tuple(events), rng.random() < 0.9)


class _Maker:
    def __init__(self, rng: random.Random, size: str) -> None:
        self.rng = rng
        config = site(size)
        self.services = tuple(config.process)
        self.autos = tuple(name for name, it in config.process.items() if it.auto_restart)
        self.gateways = tuple(config.gateway)
        self.hosts = HOSTS if config.fleet.hosts else ()
        self.tasks = TASKS if config.pipeline else ()
        self.trading = bool(config.trading)
        self.logs = tuple(name for name in config.logs if name != "service-output")
        self.targets = (*self.services, *self.gateways, *self.hosts, *self.tasks, "disk:/data", "system-memory")
        self.targets += ("brain-db", *self.logs)
        if self.trading:
            self.targets += ("augur-signals", "augur-positions")

    def happening(self, at_s: float) -> list[Event]:
        makes = (self._world, self._storm, self._people, self._message, self._crash, self._machine)
        make = self.rng.choices(
            (*makes, self._flapping, self._stop, self._phone, self._drill), (34, 5, 22, 16, 12, 9, 4, 4, 12, 3)
        )[0]
        return make(at_s)

    # -- the world --

    def _world(self, at_s: float) -> list[Event]:
        rng = self.rng
        makes = [self._service] * 5 + [self._disk, self._memory, self._database, self._log]
        makes += [self._gateway] * 2 * bool(self.gateways) + [self._host] * 2 * bool(self.hosts)
        makes += [self._task] * 2 * bool(self.tasks) + [self._signal, self._signal, self._phantom] * bool(self.trading)
        return rng.choice(makes)(at_s)

    def _back(self, at_s: float, kind: str, *args: Any) -> list[Event]:
        """Mostly somebody repairs it, sooner or later: within the race, after a while, or never."""
        rng = self.rng
        if rng.random() < 0.5:
            return []
        later_s = rng.choice((0.01, 0.5, 2.0, 4.0, 6.5, 12.0, 60.0, 400.0)) * rng.uniform(0.5, 1.5)
        return [Event(at_s + later_s, kind, args)]

    def _service(self, at_s: float) -> list[Event]:
        rng, name = self.rng, self.rng.choice(self.services)
        what = rng.choice(("kill", "kill", "kill", "kill", "mute", "zombie", "stop_file", "start"))
        match what:
            case "kill" if rng.random() < 0.04:  # dismissed before anything was decided about it
                return [Event(at_s, "kill", (name, True)), Event(at_s + 0.005, "dismiss", (name, -1, "matthew"))]
            case "kill":
                return [Event(at_s, "kill", (name, rng.random() < 0.8)), *self._back(at_s, "revive", name)]
            case "mute" if "asks" in self.services:
                return [Event(at_s, "mute", ("asks",)), *self._back(at_s, "revive", "asks")]
            case "zombie":
                return [Event(at_s, "zombie", (name,)), *self._back(at_s, "reap", name)]
            case "stop_file":
                return [
                    Event(at_s, "stop_file", (name, True)),
                    Event(at_s + rng.uniform(1, 300), "stop_file", (name, False)),
                ]
        return [Event(at_s, "next_start", (name, rng.choice(("fails", "dies", "mute", "ok"))))]

    def _disk(self, at_s: float) -> list[Event]:
        share = self.rng.choice((0.86, 0.88, 0.96, 0.99, 0.945))
        return [Event(at_s, "disk", (share, self.rng.random() < 0.7)), *self._back(at_s, "disk", 0.5, True)]

    def _memory(self, at_s: float) -> list[Event]:
        return [Event(at_s, "memory", (self.rng.choice((500, 400, 200, 270)),)), *self._back(at_s, "memory", 2_000)]

    def _database(self, at_s: float) -> list[Event]:
        return [Event(at_s, "corrupt", (True,)), *self._back(at_s, "corrupt", False)]

    def _log(self, at_s: float) -> list[Event]:
        if not self.logs:
            return self._disk(at_s)
        return [
            Event(at_s, "log", (self.logs[0], 300, self.rng.random() < 0.8)),
            *self._back(at_s, "log", self.logs[0], 1, True),
        ]

    def _gateway(self, at_s: float) -> list[Event]:
        rng, name = self.rng, self.rng.choice(self.gateways)
        events = [Event(at_s, "gateway", (name, rng.choice(("down", "down", "hang"))))]
        if rng.random() < 0.3:
            events.append(Event(at_s, "gateway_next", (name, rng.choice(("fails", "stays", "ok")))))
        return [
            *events,
            Event(at_s + 1, "look", (name,)),
            Event(at_s + 3, "look", (name,)),
            *self._back(at_s, "gateway", name, "up"),
        ]

    def _host(self, at_s: float) -> list[Event]:
        name = self.rng.choice(self.hosts)
        return [
            Event(at_s, "host", (name, False)),
            Event(at_s + 1, "look", (name,)),
            *self._back(at_s, "host", name, True),
        ]

    def _task(self, at_s: float) -> list[Event]:
        name = self.rng.choice(self.tasks)
        return [Event(at_s, "task", (name, self.rng.random() < 0.7))]

    def _signal(self, at_s: float) -> list[Event]:
        return [
            Event(at_s, "freeze", (True,)),
            *self._back(at_s + 310.0, "freeze", False),
            Event(at_s + 305, "look", ("augur-signals",)),
        ]

    def _phantom(self, at_s: float) -> list[Event]:
        return [
            Event(at_s, "phantom", (True,)),
            Event(at_s + 1, "look", ("augur-positions",)),
            *self._back(at_s, "phantom", False),
        ]

    def _storm(self, at_s: float) -> list[Event]:
        """Many of one family at once."""
        rng, events = self.rng, []
        if self.hosts and rng.random() < 0.6:
            events = [Event(at_s, "partition", (True,))]
            events += [Event(at_s + 0.5 + rng.uniform(0, 20), "look", (host,)) for host in self.hosts]
            return [*events, Event(at_s + rng.choice((30.0, 90.0, 300.0)), "partition", (False,))]
        if len(self.gateways) > 3 and rng.random() < 0.6:
            for name in self.gateways:
                events += [Event(at_s, "gateway", (name, "down"))]
                events += [Event(at_s + 0.5 + n + rng.random(), "look", (name,)) for n in range(3)]
            return events
        names = self.autos if rng.random() < 0.7 else self.services
        for name in names:
            if rng.random() < 0.4:
                events.append(Event(at_s, "next_start", (name, rng.choice(("ok", "ok", "fails", "dies", "mute")))))
            events.append(Event(at_s + rng.uniform(0, 3.0), "kill", (name, True)))
        return events

    def _flapping(self, at_s: float) -> list[Event]:
        """One service that dies again and again: its breaker must open, and later let one try through."""
        name = self.rng.choice(self.autos)
        gap_s = self.rng.choice((8.0, 40.0))
        return [Event(at_s + n * gap_s, "kill", (name, True)) for n in range(self.rng.randint(3, 6))]

    # -- people --

    def _people(self, at_s: float) -> list[Event]:
        rng, target = self.rng, self.rng.choice(self.targets)
        pick = rng.randrange(8)
        actor = "agent:cortex" if rng.random() < 0.15 else "matthew"
        what = rng.choice(
            ("approve", "approve", "approve", "approve_all", "revoke", "execute", "execute", "dismiss", "dismiss",
             "ack", "pause", "undo", "dry_run", "record_fix", "captured", "confirm", "outside", "hint", "cancel")
        )  # fmt: skip
        match what:
            case "pause":
                scope = rng.choice(("target", "target", "family", "all"))
                for_s = rng.choice((None, 30.0, 200.0))
                events = [Event(at_s, "pause", (scope, target, for_s))]
                if rng.random() < 0.7:
                    events.append(Event(at_s + rng.uniform(1, 200), "resume", (scope, target)))
                return events
            case "outside":
                return [Event(at_s, "outside", (target, rng.random() < 0.5))]
            case "hint":
                return [Event(at_s, "hint", (target,))]
        return [Event(at_s, what, (target, pick, actor))]

    def _stop(self, at_s: float) -> list[Event]:
        """A repair begins, and a person cancels it; some of those who would carry that out may die meanwhile."""
        rng = self.rng
        what, target = rng.choice(
            (
                (Event(at_s, "disk", (0.88, rng.random() < 0.7)), "disk:/data"),
                (Event(at_s, "execute", ("brain-db", 0, "matthew")), "brain-db"),
                (Event(at_s, "corrupt", (True,)), "brain-db"),
                (Event(at_s, "kill", (name := rng.choice(self.autos), True)), name),
            )
        )
        events = [what]
        if rng.random() < 0.5:
            events.insert(0, Event(at_s, "slow_evidence", (1.5,)))
        for _ in range(rng.choice((1, 1, 2))):
            cancelled_s = at_s + rng.choice((0.02, 0.2, 1.5, 4.0)) * rng.uniform(0.5, 1.5)
            events.append(Event(cancelled_s, "cancel", (target, rng.randrange(3), "matthew")))
        if rng.random() < 0.3:
            events.append(Event(at_s, "message", ("cancel", rng.choice(("lose", "double", "delay")), 1, 0.5)))
        for name in ("healer", "executor"):
            if rng.random() < 0.25:
                events.append(Event(cancelled_s + rng.uniform(-0.05, 0.1), "die", (name, 0)))
        return events

    def _asked(self, at_s: float) -> list[Event]:
        """Mostly something comes up that a person is asked about."""
        rng, name = self.rng, self.rng.choice(self.autos)
        match rng.randrange(5):
            case 0:
                return [Event(at_s, rng.choice(("execute", "approve")), (name, 0, "agent:cortex"))]
            case 1:
                return [Event(at_s, "next_start", (name, "fails")), Event(at_s, "kill", (name, True))]
            case 2 if self.trading:
                return [Event(at_s, "phantom", (True,)), Event(at_s + 0.1, "look", ("augur-positions",))]
            case 3 if "asks" in self.services:
                return [Event(at_s, "kill", (rng.choice(("asks", "blind")), True))]
        return []

    def _phone(self, at_s: float) -> list[Event]:
        """Somebody answers a page, or says several things to it: rightly, late, twice, to another; or a stranger."""
        rng, pick = self.rng, self.rng.choice((0, 0, 0, 1, 2, 5))
        events = self._asked(at_s)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            text, by = rng.choice(WORDS), rng.choice((*("quote",) * 4, *("code",) * 4, "both", "both", *WRONGLY))
            who = rng.choice(("anna", "anna", "anna", "anna", "bert", "bert", "caller", "pretender"))
            after_s = rng.choice((0.002, 0.7, 5.0, 60.0, 400.0, 4_000.0)) * rng.uniform(0.5, 1.5)
            ago_s = rng.choice((0.0, 0.0, 0.0, 0.0, 0.0, 30.0, 3_000.0, 90_000.0, 200_000.0, -4_000.0))
            again_s = rng.choice((0.0, 0.0, 0.0005, 0.01, 3.0, 400.0))
            events.append(Event(at_s, "reply", (pick, after_s, text, by, who, ago_s, again_s)))
        if rng.random() < 0.02:  # more than is taken of one person
            events += [Event(at_s + n, "reply", (0, 0.01, "why", "quote", "anna", 0.0, 0.0)) for n in range(22)]
        if rng.random() < 0.3:
            events.append(Event(at_s, "message", ("reply", rng.choice(("lose", "double", "delay")), 1, 3.0)))
        for name in ("notifier", "healer"):
            if rng.random() < 0.1:
                events.append(Event(at_s + after_s + rng.uniform(-0.01, 0.02), "die", (name, 0)))
        return events

    def _drill(self, at_s: float) -> list[Event]:
        """Somebody orders a drill; beside what else there is, and what keeps it from its end."""
        rng = self.rng
        channel, timeout_s = rng.choice(("all", "all", "signal", "synapse")), rng.choice((5.0, 60.0, 60.0, 300.0))
        events = [Event(at_s, "drill", (channel, timeout_s, rng.choice(("matthew", "matthew", "agent:cortex"))))]
        if rng.random() < 0.3:
            events.append(Event(at_s + rng.uniform(-1.0, 1.0), rng.choice(("phone_off", "phone_hangs")), (20.0,)))
        if rng.random() < 0.3:
            events.append(Event(at_s + rng.choice((0.02, 0.2, 1.5)), "cancel", (DRILL, 0, "matthew")))
        if rng.random() < 0.5:
            name = rng.choice(("store", "healer", "healer", "executor", "notifier"))
            events.append(Event(at_s + rng.choice((0.02, 0.2, 2.0)) * rng.random(), "die", (name, 0)))
        if rng.random() < 0.3:
            events.append(Event(at_s + rng.uniform(0.0, 90.0), "drill", ("all", 60.0, "matthew")))
        return events

    # -- faults --

    def _message(self, at_s: float) -> list[Event]:
        rng, kind = self.rng, self.rng.choice((*MESSAGES, *RARE))
        what = rng.choice(("lose", "double", "delay"))
        if what == "lose" and kind in NEVER_LOST:
            what = "delay"
        seconds = rng.choice((0.002, 0.05, 0.5, 3.0, 7.0, 40.0))
        events = [Event(at_s, "message", (kind, what, rng.choice((1, 1, 2, 4)), seconds))]
        if kind in ("settle", "fetch") and rng.random() < 0.7:  # which only a crash in the midst of a repair leads to
            events.append(Event(at_s, "crash_at", (rng.choice(("result.before", "program.released", "claim.after")),)))
            events.append(Event(at_s + rng.uniform(0.1, 20.0), "kill", (rng.choice(self.autos), True)))
        elif kind == "epoch" and rng.random() < 0.7:
            events.append(Event(at_s + 0.1, "die", ("healer", 0)))
        return events

    def _crash(self, at_s: float) -> list[Event]:
        rng = self.rng
        what = rng.random()
        if what < 0.6:
            return [Event(at_s, "crash_at", (rng.choice(tuple(OWNER)),))]
        if what < 0.66:
            return [
                Event(
                    at_s,
                    "loop",
                    (rng.choice(("executor", "notifier", "probe", "probe")), rng.choice((4, 11)), rng.randrange(8)),
                )
            ]
        if what < 0.9:
            name = rng.choice(("store", "healer", "executor", "executor", "notifier", "root", "probe"))
            times = rng.choice((1, 1, 1, 3))
            return [Event(at_s + n * 0.4, "die", (name, rng.randrange(8))) for n in range(times)]
        return [Event(at_s, "hang", (rng.choice(("store", "healer", "executor", "notifier")),))]

    def _machine(self, at_s: float) -> list[Event]:
        rng = self.rng
        what = rng.choice(
            ("wall", "wall", "suspend", "stall", "slow_disk", "full_disk", "phone_off", "phone_hangs", "synapse_locked",
             "slow_probe", "blind", "slow_plan", "slow_evidence", "reload", "large_ledger")
        )  # fmt: skip
        seconds = rng.choice((1.5, 5.5, 20.0, 70.0))
        match what:
            case "wall":
                return [Event(at_s, "wall", (rng.choice((-86_400.0, -7_200.0, -3.0, 3.0, 7_200.0, 86_400.0)),))]
            case "suspend":
                return [Event(at_s, "suspend", (rng.choice((10.0, 4_000.0, 90_000.0)),))]
            case "slow_probe":
                return [Event(at_s, "slow_probe", (rng.choice((1.0, 3.0, 4.9)), seconds))]
            case "blind":
                return [Event(at_s, "blind", (rng.choice(self.targets), rng.choice((20.0, 400.0, 900.0))))]
            case "slow_disk":
                return [Event(at_s, "slow_disk", (rng.choice((0.2, 1.0, 4.0)), seconds))]
            case "phone_off" | "phone_hangs":
                return [Event(at_s, what, (rng.choice((20.0, 150.0, 500.0)),))]
            case "reload":
                return [Event(at_s, "reload", (rng.choice(self.services),)), Event(at_s + seconds, "reload", ("",))]
        return [Event(at_s, what, (seconds,))]
