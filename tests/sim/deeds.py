"""How each event of the schedule is carried out in the simulation: by the world, by people, by faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.incidents import events as e
from supervisor.incidents.model import ExecutionState, Target
from supervisor.messages import Request
from tests.sim.phone import Answer
from tests.sim.site import without

RUNBOOK_OF = {
    "process": ("rb-restart-service", "rb-kill-zombie"),
    "gateway": ("rb-gateway-restart",),
    "pipeline": ("rb-kick-pipeline",),
    "fleet": ("rb-probe-then-alert",),
    "database": ("rb-db-restore", "rb-db-emergency"),
    "logs": ("rb-rotate-logs",),
}


class Deeds:
    """One method for each kind of event."""

    def __init__(self, sim: Any) -> None:
        self.sim = sim
        self.world = sim.world
        self.codes = 0

    def do(self, kind: str, args: tuple[Any, ...]) -> None:
        """Raises nothing: what a shrunk list has left without its ground has nothing to do."""
        deed: Callable[..., None] = getattr(self, f"do_{kind}")
        deed(*args)

    # -- the world --

    def do_kill(self, name: str, seen: bool) -> None:
        self.world.kill(name, seen=seen)

    def do_revive(self, name: str) -> None:
        self.world.revive(name)

    def do_mute(self, name: str) -> None:
        self.world.services[name].responds = False
        self.sim.look(name)
        self.sim.later(1.0, self.sim.look, name)

    def do_zombie(self, name: str) -> None:
        service = self.world.services[name]
        if service.zombie_s is None:
            service.zombie_s = self.world.loop.time()
        self.sim.later(11.0, self.sim.look, name)

    def do_reap(self, name: str) -> None:
        self.world.reap(name)

    def do_stop_file(self, name: str, there: bool) -> None:
        self.world.set_stop_file(name, there)

    def do_next_start(self, name: str, how: str) -> None:
        self.world.services[name].next_start = how

    def do_disk(self, share: float, frees: bool) -> None:
        self.world.disk_frees = frees
        self.world.set_disk(share)
        self.sim.look("disk:/data")

    def do_memory(self, mib: int) -> None:
        self.world.set_memory(mib)
        self.sim.look("system-memory")

    def do_corrupt(self, corrupt: bool) -> None:
        self.world.set_corrupt(corrupt)
        self.sim.look("brain-db")

    def do_log(self, name: str, mib: int, rotates: bool) -> None:
        self.world.logs_rotate = rotates
        self.world.set_log(name, mib)
        self.sim.look(name)

    def do_gateway(self, name: str, state: str) -> None:
        self.world.set_gateway(name, state)

    def do_gateway_next(self, name: str, how: str) -> None:
        self.world.gateway_next[name] = how

    def do_host(self, name: str, reachable: bool) -> None:
        self.world.set_host(name, reachable)

    def do_partition(self, cut: bool) -> None:
        self.sim.fates.hit("partition", "fleet")
        for name in self.world.hosts:
            self.world.set_host(name, not cut)

    def do_task(self, name: str, moving: bool) -> None:
        self.world.move_task(name, moving=moving)
        self.sim.look(name)

    def do_freeze(self, frozen: bool) -> None:
        self.world.freeze(frozen)

    def do_phantom(self, there: bool) -> None:
        self.world.set_phantom(there)

    def do_look(self, target_id: str) -> None:
        self.sim.look(target_id)

    # -- people --

    def _order(self, action: str, actor: str = "matthew", **args: Any) -> None:
        self.sim.asks(Request(action, msgspec.json.encode(args), actor))

    def _target(self, target_id: str) -> Target | None:
        found: Target | None = self.world.targets.get(target_id)
        return found

    def _runbook(self, target_id: str, pick: int) -> str:
        target = self._target(target_id)
        family = target.family if target is not None else "process"
        if target_id == "augur-signals":
            return "rb-restart-augur"
        if target_id == "augur-positions":
            return "rb-clear-phantom"
        if target_id == "disk:/data":
            return ("rb-rotate-logs", "rb-emergency-cleanup")[pick % 2]
        if target_id == "system-memory":
            return ("rb-gc-trigger", "rb-force-gc")[pick % 2]
        books = RUNBOOK_OF[family]
        return books[0 if pick < 6 else pick % len(books)]

    def do_approve(self, target_id: str, pick: int, actor: str) -> None:
        self._order("approve", actor, runbook_id=self._runbook(target_id, pick), target_id=target_id)

    def do_approve_all(self, target_id: str, pick: int, actor: str) -> None:
        self._order("approve", actor, runbook_id=self._runbook(target_id, pick))

    def do_revoke(self, target_id: str, pick: int, actor: str) -> None:
        self._order("approve", actor, runbook_id=self._runbook(target_id, pick), target_id=target_id, revoke=True)

    def do_execute(self, target_id: str, pick: int, actor: str) -> None:
        runbook = self._runbook(target_id, pick)
        self._order("execute", actor, runbook_id=runbook, target_id=target_id, confirm=pick != 7)

    def do_dry_run(self, target_id: str, pick: int, actor: str) -> None:
        self._order("dry_run", actor, runbook_id=self._runbook(target_id, pick), target_id=target_id)

    def _open(self, pick: int) -> str:
        found = [it.id for it in self.sim.watch.incidents.values() if it.open]
        return found[pick % len(found)] if found else "inc_none"

    def do_dismiss(self, target_id: str, pick: int, actor: str) -> None:
        self._order("dismiss", actor, incident_id=self._open(pick), reason="planned")

    def do_cancel(self, target_id: str, pick: int, actor: str) -> None:
        """By the name of a target, or of what is at work, or of its incident."""
        at_work = (ExecutionState.INTENDED, ExecutionState.CLAIMED)
        found = next((it for it in self.sim.watch.executions.values() if it.state in at_work), None)
        named = target_id
        if found is not None and pick % 3:
            named = (found.incident_id or found.id) if pick % 3 == 1 else found.id
        self._order("cancel", actor, id=named)

    def do_ack(self, target_id: str, pick: int, actor: str) -> None:
        self._order("ack", actor, incident_id=self._open(pick))

    def do_record_fix(self, target_id: str, pick: int, actor: str) -> None:
        commands = (("/sim/start", target_id),) if pick % 2 else ()
        self._order("record_fix", actor, incident_id=self._open(pick), description="by hand", commands=commands)

    def do_captured(self, target_id: str, pick: int, actor: str) -> None:
        self._order("captured", actor, commands=(("/sim/start", target_id),), source="bash")

    def do_undo(self, target_id: str, pick: int, actor: str) -> None:
        over = [it for it in self.sim.watch.executions.values() if it.state is ExecutionState.SUCCEEDED]
        undoable = [it for it in over if any(result.undo for result in it.results)] or over
        chosen = undoable[pick % len(undoable)].id if undoable else "exe_none"
        self._order("undo", actor, execution_id=chosen)

    def do_confirm(self, target_id: str, pick: int, actor: str) -> None:
        """A person reads the codes of what agents have asked for, and confirms one."""
        code = self.sim.code(pick)
        self._order("confirm", "matthew", code=code or "XXXXXX")

    def do_reply(self, pick: int, after_s: float, *answer: Any) -> None:
        self.sim.phone.decides(pick, after_s, Answer(*answer))

    def do_drill(self, channel: str, timeout_s: float, actor: str) -> None:
        self._order("drill", actor, channel=channel, timeout_s=timeout_s)

    def do_pause(self, scope: str, target_id: str, for_s: float | None) -> None:
        self._order("pause", reason="so", for_s=for_s, **self._scope(scope, target_id))

    def do_resume(self, scope: str, target_id: str) -> None:
        self._order("resume", **self._scope(scope, target_id))

    def _scope(self, scope: str, target_id: str) -> dict[str, Any]:
        target = self._target(target_id)
        family = target.family if target is not None else "process"
        return {"target": {"target_id": target_id}, "family": {"family": family}, "all": {"all": True}}[scope]

    def do_outside(self, target_id: str, lies: bool) -> None:
        target = self._target(target_id)
        if target is not None:
            self.sim.outside(self.world.read(target_id, external=True, lies=lies))

    def do_hint(self, target_id: str) -> None:
        target = self._target(target_id)
        if target is not None:
            self.sim.event(e.Hinted(target_id, target.family))

    # -- faults --

    def do_message(self, kind: str, what: str, count: int, seconds: float) -> None:
        self.sim.fates.arm_message(kind, what, count, seconds, self.world.loop.time())

    def do_crash_at(self, point: str) -> None:
        self.sim.fates.arm_point(point, self.world.loop.time())

    def do_die(self, name: str, pick: int) -> None:
        self.sim.fates.hit("kill", name)
        if name == "root":
            self.sim.root.dies()
            return
        if name == "probe":
            name = self._probe_name(pick)
        self.sim.root.kill(name)

    def do_loop(self, name: str, times: int, pick: int) -> None:
        """It dies whenever it has come up: its group's breaker has to end that."""
        self.sim.fates.hit("loop", "worker")
        self._again(name, times, pick)

    def _again(self, name: str, times: int, pick: int) -> None:
        child = self.sim.root.children.get(self._probe_name(pick) if name == "probe" else name)
        if child is not None and child.ready:
            self.sim.root.kill(child.proc.name)
            times -= 1
        if times > 0 and not self.sim.quiet:
            self.sim.later(0.3, self._again, name, times, pick)

    def _probe_name(self, pick: int) -> str:
        others = ("store", "healer", "executor", "notifier")
        probes = [child.spec.name for child in self.sim.root.state.children.values() if child.spec.name not in others]
        return probes[pick % len(probes)]

    def do_large_ledger(self, seconds: float) -> None:
        self.sim.fates.hit("large", "ledger")
        self.sim.ledger_grows(1_900_000_000)
        self.sim.later(seconds + 5.0, self.sim.ledger_grows, 1_000_000)

    def do_hang(self, name: str) -> None:
        child = self.sim.root.children.get(name)
        if child is not None and child.ready and child.proc.frozen is None:
            self.sim.fates.hit("hang", name)
            child.proc.frozen = []
            self.sim.net.disturbed()
            self.sim.root._arm()

    def do_wall(self, seconds: float) -> None:
        self.sim.fates.hit("wall", "forward" if seconds > 0 else "back")
        self.sim.phone.wrong_s += seconds
        self._wall(seconds)

    def _wall(self, seconds: float) -> None:
        self.world.loop.wall_offset_s += seconds
        self.world.latest_wall_offset_s = max(self.world.latest_wall_offset_s, self.world.loop.wall_offset_s)

    def do_suspend(self, seconds: float) -> None:
        """CLOCK_MONOTONIC stands still meanwhile."""
        self.sim.fates.hit("suspend", "machine")
        self._wall(seconds)

    def do_stall(self, seconds: float) -> None:
        """The machine, or the virtual one that it is, stops: time goes on and nothing of it runs."""
        self.sim.fates.hit("stall", "machine")
        self.world.loop._now += seconds
        self.world.stood_still_s += seconds

    def do_slow_disk(self, delay_s: float, seconds: float) -> None:
        self.sim.fates.disk_slow_s = delay_s
        self.sim.fates.disk_slow_until_s = self.world.loop.time() + seconds

    def do_slow_evidence(self, seconds: float) -> None:
        self.sim.fates.hit("slow_disk", "evidence")
        self.sim.hands.evidence_s = min(seconds, 2.5)
        self.sim.later(40.0, setattr, self.sim.hands, "evidence_s", 0.01)

    def do_full_disk(self, seconds: float) -> None:
        self.sim.fates.hit("full_disk", "ledger")
        self.sim.disk_full(True)
        self.sim.later(seconds, self.sim.disk_full, False)

    def do_phone_off(self, seconds: float) -> None:
        self.sim.fates.hit("phone", "off")
        self.sim.phone_off_until_s = self.world.loop.time() + seconds
        self.sim.phone.goes_off()

    def do_phone_hangs(self, seconds: float) -> None:
        self.sim.fates.hit("phone", "hangs")
        self.sim.phone_hangs_until_s = self.world.loop.time() + seconds

    def do_synapse_locked(self, seconds: float) -> None:
        self.sim.fates.hit("synapse", "locked")
        self.sim.synapse_locked_until_s = self.world.loop.time() + seconds

    def do_slow_probe(self, takes_s: float, seconds: float) -> None:
        self.sim.fates.hit("slow", "probe")
        self.sim.probe_takes_s = takes_s
        self.sim.net.disturbed(seconds)
        self.sim.later(seconds, setattr, self.sim, "probe_takes_s", 0.01)

    def do_slow_plan(self, seconds: float) -> None:
        self.sim.fates.hit("slow", "plan")
        self.sim.plan_s = seconds
        self.sim.later(60.0, setattr, self.sim, "plan_s", 0.05)

    def do_blind(self, target_id: str, seconds: float) -> None:
        self.sim.fates.hit("blind", "probe")
        self.world.blind[target_id] = self.world.loop.time() + seconds
        for n in range(3):
            self.sim.later(1.0 + n, self.sim.look, target_id)

    def do_reload(self, name: str) -> None:
        """Another configuration: without this service, or the whole site again."""
        self.sim.fates.hit("reload", "site")
        self.sim.reload(without(self.sim.site, name) if name else self.sim.site)
