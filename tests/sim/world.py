"""The ground truth: services, disks, databases, hosts and the rest, as they really are; and what a probe sees of them.

Nothing here knows the engine. `ill` is the truth that the invariants judge by; `well_since` is when it last became
well. What changes the world by our hands goes through `hands.py`, everything else through the schedule.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.config import Config
from supervisor.incidents import drill_run
from supervisor.incidents.model import AnomalyType as A
from supervisor.incidents.model import Target
from supervisor.incidents.readings import (
    DatabaseData,
    DiskData,
    DrillData,
    Endpoint,
    FleetData,
    GatewayData,
    HealthReading,
    Integrity,
    LogFile,
    LogsData,
    Manager,
    MemoryData,
    PidFile,
    PipelineData,
    Position,
    PositionsData,
    ProcessData,
    ProcessRef,
    ReadingData,
    SignalData,
    Stamp,
    Unavailable,
    Zombie,
)
from supervisor.targets import databases, open_families, targets, written
from tests.sim.loop import VirtualLoop
from tests.sim.site import TASKS

BOOT = "boot-of-the-simulation"
MIB = 1024 * 1024
DISK = "disk:/data"
MEMORY = "system-memory"
BRAIN = "brain-db"
CHECK_S = 12.0  # a database's check takes so long, in the background
OUR_PARTS_FAMILY = "tree"


@dataclass
class Process:
    """One process of the machine. `ended`: its exit code, once it is over."""

    ref: ProcessRef
    name: str
    ended: asyncio.Future[int | None]
    gated: bool = False  # it waits for its gate, and is healctl's own until then

    @property
    def live(self) -> bool:
        return not self.ended.done()


@dataclass
class Service:
    name: str
    endpoint: bool = False
    managed: bool = False
    responds: bool = True
    stop_file: bool = False
    next_start: str = "ok"  # ok | dies | fails | mute
    died_s: float = 0.0
    zombie_s: float | None = None
    failures: int = 0
    manager_says: Manager = Manager.FAILED  # while it is dead
    live: list[Process] = field(default_factory=list)

    @property
    def ill(self) -> bool:
        return not self.stop_file and (not self.live or (self.endpoint and not self.responds))


class World:
    def __init__(self, loop: VirtualLoop, config: Config) -> None:
        self.loop = loop
        self._context = contextvars.Context()
        self.processes: dict[int, Process] = {}
        self._next_pid = 1_000
        self.services = {
            name: Service(name, bool(it.endpoint), it.restart is not None and bool(it.restart.systemd))
            for name, it in config.process.items()
        }
        self.gateways = dict.fromkeys(config.gateway, "up")  # up | down | hang
        self.gateway_failures = dict.fromkeys(config.gateway, 0)
        self.gateway_came_s = dict.fromkeys(config.gateway, 0.0)  # when its process was last there again, well or not
        self.gateway_next = dict.fromkeys(config.gateway, "ok")  # ok | fails | stays
        self.hosts = {f"fleet:{name}": True for name in config.fleet.hosts}
        self.tasks: dict[str, tuple[int, bool, float | None]] = dict.fromkeys(TASKS, (0, True, None))
        self.tasks = self.tasks if config.pipeline else {}
        self.stuck_after_s = float(next(iter(config.pipeline.values())).stuck_after) if config.pipeline else 0.0
        self.disk_share, self.disk_frees = 0.5, True
        self.memory_bytes = 2_000 * MIB
        self.logs = {name: 10 * MIB for name in config.logs if name != "service-output"}
        self.logs_rotate = True
        self.corrupt = False
        self.phantoms: list[str] = []
        self.drill = ""  # whose made-up trouble is there
        self.frozen_s: float | None = None  # since when the live signal is not written
        self.max_age_s = 300.0
        self.writer = config.trading["augur"].process if config.trading else ""
        self.checks: dict[str, tuple[float, bool]] = {}  # database -> when its last check began, what it found
        self.stood_still_s = 0.0  # the machine, in all
        self.latest_wall_offset_s = loop.wall_offset_s  # the wall clock was never further ahead
        self.blind: dict[str, float] = {}  # target -> until when its probe cannot tell
        self.well_s: dict[tuple[A, str], float] = {}
        self.seen_ill: dict[str, dict[float, frozenset[A]]] = {}  # target -> reading's time -> what was really ill
        self.told: dict[str, tuple[float, frozenset[A]]] = {}  # target -> its newest reading that told something
        self.kernel_tells: Callable[[str], None] = lambda target_id: None  # pidfd, inotify: a probe looks at once
        self.acting: Callable[[str, str, bool], None] = lambda what, target_id, ends_live: None
        self.known_targets(config)
        for service in self.services.values():
            self._born(service)

    def later(self, seconds: float, run: Callable[..., object], *args: object) -> None:
        """Whoever began it, it happens: it belongs to no process of healctl's."""
        self.loop.call_later(seconds, run, *args, context=self._context)

    def known_targets(self, config: Config) -> None:
        """Another configuration, too."""
        self.targets: dict[str, Target] = {target.target_id: target for target in targets(config)}
        for target_id in (DISK, *self.tasks):
            family = "host" if target_id == DISK else "pipeline"
            if family in open_families(config):
                self.targets[target_id] = Target(target_id, family)
        self.targets[drill_run.TARGET] = Target(drill_run.TARGET, drill_run.FAMILY)
        self.databases = {name: section.path for name, section in databases(config).items()}
        self.written = frozenset(written(config))

    # -- processes --

    def spawn(self, name: str, *, gated: bool = False) -> Process:
        self._next_pid += 1
        ref = ProcessRef(BOOT, self._next_pid, self._next_pid * 7)
        process = Process(ref, name, self.loop.create_future(), gated)
        self.processes[ref.pid] = process
        return process

    def find(self, ref: ProcessRef) -> Process | None:
        found = self.processes.get(ref.pid)
        return found if found is not None and found.ref == ref and found.live else None

    def _born(self, service: Service, process: Process | None = None) -> None:
        process = process or self.spawn(service.name)
        service.live.append(process)
        service.zombie_s = None
        if service.next_start != "mute":
            service.responds = True
        self._now_well(A.PROCESS_DEAD, service.name)
        if service.name == self.writer:
            self.frozen_s = None
            self._now_well(A.SIGNAL_STALE, "augur-signals")

    def ends(self, process: Process, code: int | None) -> None:
        """A process is over, however."""
        if not process.live:
            return
        process.ended.set_result(code)
        self.processes.pop(process.ref.pid, None)
        service = self.services.get(process.name)
        if service is None or process not in service.live:
            return
        service.live.remove(process)
        if not service.live:
            service.died_s = self.loop.time()
            if service.name == self.writer and self.frozen_s is None:
                self.frozen_s = self.loop.time()
        self.kernel_tells(service.name)

    def starts(self, process: Process) -> str:
        """A recipe's program runs. Returns what is wrong with that, if anything; a service never twice."""
        process.gated = False
        service = self.services[process.name]
        doubled = "" if not service.live else f"{service.name} runs already as {service.live[0].ref.pid}"
        if service.next_start == "fails":
            self.later(0.005, self.ends, process, 1)
            return doubled
        self._born(service, process)
        if service.next_start == "dies":
            self.later(0.4, self.ends, process, 3)
        return doubled

    # -- what happens by itself, and what people do --

    def kill(self, name: str, *, seen: bool) -> None:
        service = self.services[name]
        tells, self.kernel_tells = self.kernel_tells, (self.kernel_tells if seen else lambda target_id: None)
        for process in list(service.live):
            self.ends(process, -9)
        self.kernel_tells = tells

    def revive(self, name: str) -> None:
        """By hand, or by its manager."""
        service = self.services[name]
        service.next_start = "ok"
        if not service.live:
            self._born(service)
        service.responds = True
        self._now_well(A.PROCESS_DEAD, name)

    def set_stop_file(self, name: str, there: bool) -> None:
        service = self.services[name]
        service.stop_file = there
        if there:
            self._now_well(A.PROCESS_DEAD, name)
            if name == self.writer:
                self._now_well(A.SIGNAL_STALE, "augur-signals")

    def reap(self, name: str) -> None:
        self.services[name].zombie_s = None
        self._now_well(A.PROCESS_ZOMBIE, name)

    def freeze(self, frozen: bool) -> None:
        if not self.writer:
            return
        if frozen:
            self.frozen_s = self.frozen_s if self.frozen_s is not None else self.loop.time()
        elif self.services[self.writer].live:
            self.frozen_s = None
            self._now_well(A.SIGNAL_STALE, "augur-signals")

    def move_task(self, target_id: str, *, moving: bool = True) -> None:
        stage, _, _ = self.tasks[target_id]
        self.tasks[target_id] = (stage + 1, moving, None)
        self._now_well(A.PIPELINE_STUCK, target_id)

    def set_host(self, target_id: str, reachable: bool) -> None:
        self.hosts[target_id] = reachable
        if reachable:
            self._now_well(A.FLEET_UNREACHABLE, target_id)

    def set_gateway(self, name: str, state: str) -> None:
        if self.gateways[name] == "down" != state:
            self.gateway_came_s[name] = self.loop.time()
        self.gateways[name] = state
        if state == "up":
            self._now_well(A.GATEWAY_UNRESPONSIVE, name)

    def set_disk(self, share: float) -> None:
        self.disk_share = share
        for anomaly in (A.DISK_PRESSURE, A.DISK_CRITICAL):
            if not self.ill(anomaly, DISK):
                self._now_well(anomaly, DISK)

    def set_memory(self, mib: int) -> None:
        self.memory_bytes = mib * MIB
        for anomaly in (A.MEMORY_PRESSURE, A.MEMORY_CRITICAL):
            if not self.ill(anomaly, MEMORY):
                self._now_well(anomaly, MEMORY)

    def set_log(self, name: str, mib: int) -> None:
        self.logs[name] = mib * MIB
        if not self.ill(A.LOG_BLOAT, name):
            self._now_well(A.LOG_BLOAT, name)

    def set_corrupt(self, corrupt: bool) -> None:
        self.corrupt = corrupt
        if not corrupt:
            self._now_well(A.DB_CORRUPTION, BRAIN)

    def set_phantom(self, there: bool) -> None:
        self.phantoms = ["17"] if there else []
        if not there:
            self._now_well(A.PHANTOM_POSITION, "augur-positions")

    def set_drill(self, drill_id: str) -> None:
        self.drill = drill_id
        if not drill_id:
            self._now_well(A.DRILL, drill_run.TARGET)

    def mend(self) -> None:
        """Everything is well, and stays so."""
        for name, service in self.services.items():
            service.stop_file = False
            self.revive(name)
            self.reap(name)
        self.freeze(False)
        for name in self.gateways:
            self.gateway_next[name] = "ok"
            self.set_gateway(name, "up")
        for host in self.hosts:
            self.set_host(host, True)
        for task in self.tasks:
            self.move_task(task, moving=False)
        self.set_disk(0.5)
        self.set_memory(2_000)
        for name in self.logs:
            self.set_log(name, 10)
        self.set_corrupt(False)
        self.set_phantom(False)
        self.blind.clear()

    def _now_well(self, anomaly: A, target_id: str) -> None:
        self.well_s[anomaly, target_id] = self.loop.time()

    # -- the truth --

    def signal_age_s(self) -> float:
        return 1.0 if self.frozen_s is None else self.loop.time() - self.frozen_s

    def ill(self, anomaly: A, target_id: str) -> bool:
        """Is it so at this moment? Between two marks (hysteresis) it counts as ill, since the engine may call it so."""
        is_so = _IS_SO.get(anomaly)
        return is_so is not None and is_so(self, target_id)

    def _stale(self) -> bool:
        meant = self.writer != "" and self.services[self.writer].stop_file
        return not meant and self.signal_age_s() > self.max_age_s * 0.8

    def _stands_s(self, target_id: str) -> float:
        _, moving, entered_s = self.tasks[target_id]
        return self.loop.time() - entered_s if moving and entered_s is not None else 0.0

    def illnesses(self, target_id: str) -> frozenset[A]:
        """What is really wrong with this target now."""
        target = self.targets.get(target_id)
        of = _OF_TARGET.get(target_id) or _OF_FAMILY.get(target.family if target is not None else "", ())
        return frozenset([anomaly for anomaly in of if self.ill(anomaly, target_id)])

    # -- what a probe sees --

    def read(self, target_id: str, *, external: bool = False, lies: bool = False) -> HealthReading:
        """As of now. What it says is the truth, unless others lie; what a background check says is of its beginning."""
        now_s = self.loop.time()
        target = self.targets[target_id]
        if self.blind.get(target_id, 0.0) > now_s and not external:  # nor does it see that a task moves
            data, reason, checked_s = None, Unavailable.PERMISSION, None
        else:
            data, reason, checked_s = self._data(target, lies=lies)
        told = data is not None or reason not in (Unavailable.NONE, Unavailable.PERMISSION)
        if told and not external:
            ills = self.illnesses(target_id)
            if checked_s is not None:
                ills = frozenset({A.DB_CORRUPTION} if self.checks[target_id][1] else ())
            self.seen_ill.setdefault(target_id, {})[now_s] = ills
            self.told[target_id] = (now_s, ills)
        return HealthReading(
            target_id=target_id,
            family=target.family,
            taken_mono_s=now_s,
            taken_wall_s=self.loop.wall(),
            took_ms=1.0,
            freshness_ms=300_000,
            available=data is not None,
            data=data,
            reason=reason,
            error="" if data is not None else "it cannot be read",
            external=external,
            checked_mono_s=checked_s,
        )

    def check_database(self, target_id: str, began_s: float, found: bool) -> None:
        self.checks[target_id] = (began_s, found)

    def _data(self, target: Target, *, lies: bool) -> tuple[ReadingData | None, Unavailable, float | None]:
        target_id, none = target.target_id, Unavailable.NONE
        match target.family:
            case "process":
                return self._process(target, lies=lies), none, None
            case "gateway":
                return self._gateway(target_id, lies=lies), none, None
            case "fleet":
                if self.hosts[target_id] and not lies:
                    return FleetData("127.0.0.1", 22, detail="reached"), none, None
                return None, Unavailable.TIMEOUT, None
            case "pipeline":
                stage, moving, entered_s = self.tasks[target_id]
                if moving and entered_s is None:
                    self.tasks[target_id] = (stage, moving, self.loop.time())
                data = PipelineData(target_id.partition(":")[2], moving, self.stuck_after_s, "news", f"stage{stage}")
                return data, none, None
            case "trading" if target_id.endswith("-signals"):
                meant = self.writer != "" and self.services[self.writer].stop_file
                return SignalData(self.signal_age_s(), self.max_age_s, Stamp.KEY, self.writer, meant), none, None
            case "trading":
                fresh = self.signal_age_s() <= self.max_age_s
                phantoms = tuple(Position(trade, "BTC", "long") for trade in self.phantoms)
                return PositionsData(fresh, len(phantoms), phantoms), none, None
            case "database":
                check = self.checks.get(target_id)
                if check is None:
                    return DatabaseData(self.databases[target_id], Integrity.UNKNOWN), none, None
                verdict = Integrity.CORRUPT if check[1] else Integrity.OK
                data = DatabaseData(
                    self.databases[target_id], verdict, "quick_check", ("bad page",) if check[1] else ()
                )
                return data, none, check[0]
            case "drill":
                return DrillData(self.drill), none, None
            case "logs":
                size = self.logs.get(target_id, 1 * MIB)
                return LogsData(1, size, 100 * MIB, (LogFile("/sim/app.log", size),)), none, None
        if target_id == DISK:
            share = 0.99 if lies else self.disk_share
            return DiskData("/data", 0.85, 0.95, size_bytes=10**9, used_share=share), none, None
        return MemoryData(self.memory_bytes, 4_000 * MIB, 512 * MIB, 256 * MIB), none, None

    def _process(self, target: Target, *, lies: bool) -> ProcessData:
        service, now_s = self.services[target.target_id], self.loop.time()
        alive = bool(service.live) and not lies
        endpoint = Endpoint.UNSET
        if service.endpoint:
            endpoint = Endpoint.OK if alive and service.responds else Endpoint.REFUSED
            service.failures = 0 if endpoint is Endpoint.OK else service.failures + 1
        zombies: tuple[Zombie, ...] = ()
        if service.zombie_s is not None:
            zombies = (Zombie(ProcessRef(BOOT, 77, 77), 1, "parent", now_s - service.zombie_s),)
        manager = Manager.NONE
        if service.managed:
            manager = Manager.RUNNING if alive else service.manager_says
        return ProcessData(
            alive=alive,
            process=service.live[0].ref if alive else None,
            pid_file=PidFile.OK if alive else PidFile.STALE,
            endpoint=endpoint,
            endpoint_failures=service.failures,
            meant_to_stop=service.stop_file,
            zombies=zombies,
            manager=manager,
            dead_for_s=0.0 if alive else now_s - service.died_s,
            act_after_s=2.0 if service.managed else 0.0,
            sought=target.sought,
        )

    def _gateway(self, name: str, *, lies: bool) -> GatewayData:
        state = "down" if lies else self.gateways[name]
        self.gateway_failures[name] = 0 if state == "up" else self.gateway_failures[name] + 1
        endpoint = {"up": Endpoint.OK, "down": Endpoint.REFUSED, "hang": Endpoint.TIMEOUT}[state]
        runtime = {"up": "", "down": "stopped", "hang": "running"}[state]
        failures = 2 if lies else self.gateway_failures[name]
        return GatewayData(endpoint, failures, 2, "health_url", runtime)


_IS_SO: dict[A, Callable[[World, str], bool]] = {
    A.PROCESS_DEAD: lambda world, name: name in world.services and world.services[name].ill,
    A.PROCESS_ZOMBIE: lambda world, name: name in world.services and world.services[name].zombie_s is not None,
    A.SIGNAL_STALE: lambda world, _: world._stale(),
    A.PHANTOM_POSITION: lambda world, _: bool(world.phantoms),
    A.PIPELINE_STUCK: lambda world, task: task in world.tasks and world._stands_s(task) > world.stuck_after_s - 1.0,
    A.FLEET_UNREACHABLE: lambda world, host: not world.hosts.get(host, True),
    A.GATEWAY_UNRESPONSIVE: lambda world, name: world.gateways.get(name, "up") != "up",
    A.DISK_PRESSURE: lambda world, _: world.disk_share > 0.83,
    A.DISK_CRITICAL: lambda world, _: world.disk_share > 0.93,
    A.MEMORY_PRESSURE: lambda world, _: world.memory_bytes < 512 * MIB * 1.1,
    A.MEMORY_CRITICAL: lambda world, _: world.memory_bytes < 256 * MIB * 1.1,
    A.DB_CORRUPTION: lambda world, name: name == BRAIN and world.corrupt,
    A.DRILL: lambda world, _: world.drill != "",
    A.LOG_BLOAT: lambda world, name: world.logs.get(name, 0) > 100 * MIB * 0.9,
}
_OF_FAMILY: dict[str, tuple[A, ...]] = {
    "process": (A.PROCESS_DEAD, A.PROCESS_ZOMBIE),
    "gateway": (A.GATEWAY_UNRESPONSIVE,),
    "pipeline": (A.PIPELINE_STUCK,),
    "fleet": (A.FLEET_UNREACHABLE,),
    "database": (A.DB_CORRUPTION,),
    "logs": (A.LOG_BLOAT,),
    "drill": (A.DRILL,),
}
_OF_TARGET: dict[str, tuple[A, ...]] = {
    "augur-signals": (A.SIGNAL_STALE,),
    "augur-positions": (A.PHANTOM_POSITION,),
    DISK: (A.DISK_PRESSURE, A.DISK_CRITICAL),
    MEMORY: (A.MEMORY_PRESSURE, A.MEMORY_CRITICAL),
}
