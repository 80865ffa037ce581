"""The root in the simulation: the real tree kernel; its actions are carried out on simulated processes.

It beats lazily: while nothing is starting, stopping or hanging, no beat is sent, since the kernel moves its deadlines
for a root that was not running. systemd starts a root anew a second after it has given up or was killed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from supervisor.messages import Beat, Ready, TreeEvent, TreeKind, Up
from supervisor.tree import kernel, model
from supervisor.tree.spec import healctl_tree
from supervisor.tree.turn import portions
from supervisor.worker import Boot
from tests.sim.faults import LATENCY_S
from tests.sim.house import WORKERS, SimProbe
from tests.sim.loop import Killed, Proc
from tests.sim.wires import ORDER_S

FORK_S = 0.005
AGAIN_S = 1.0
PAGER_S = 1.0
STATE, RUN = Path("/sim/state"), Path("/sim/run")


class Child:
    """One simulated worker process."""

    def __init__(self, name: str, incarnation: str) -> None:
        self.proc = Proc(name, incarnation)
        self.worker: Any = None
        self.ready = False
        self.early: list[TreeEvent] = []


class Root:
    """One life of the root."""

    def __init__(self, sim: Any, life: int) -> None:
        self.sim = sim
        self.over = False
        self.children: dict[str, Child] = {}
        self._latest: dict[str, TreeEvent] = {}
        self._tree_s = 0.0  # when the newest event arrives: the socket pair keeps the order
        self._tick: asyncio.TimerHandle | None = None
        self._beats = 0
        self.state = kernel.initial(healctl_tree(sim.config), f"r{life}")
        self.apply(model.Tick())

    def apply(self, event: model.KernelEvent) -> None:
        if self.over:
            return
        events = [event]
        while events:
            self.state, actions = kernel.step(self.state, events.pop(0), self.sim.loop.time())
            for action in actions:
                events += self._perform(action)
        self._arm()

    def _perform(self, action: model.Action) -> list[model.KernelEvent]:
        match action:
            case model.Fork():
                return [self._fork(action)]
            case model.Order(name):
                self.sim.later(0.01, self.kill, name, 0, self.children[name])
            case model.Abort(name):
                self.sim.later(0.002, self.kill, name, -6, self.children[name])
            case model.Kill(name):
                self.sim.later(0.001, self.kill, name, -9, self.children[name])
            case model.Report(event):
                self._report(msgspec.structs.replace(event, at_wall_s=self.sim.loop.wall()))
            case model.Page():
                self.sim.coverage.see("root", "page")
                self.sim.later(PAGER_S, self.apply, model.PagerEnded())
            case model.Exit(code):
                self.sim.coverage.see("root", f"exit {code}")
                self.dies()
        return []

    def _arm(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        children = self.state.children.values()
        frozen = any(child.proc.frozen is not None for child in self.children.values())
        if self.over or not (frozen or any(child.deadline_s is not None for child in children)):
            return
        self._tick = self.sim.loop.call_at(self.state.wake_by_s, self._on_tick, context=self.sim.context)

    def _on_tick(self) -> None:
        self._tick = None
        self._beats += 1
        for name, child in list(self.children.items()):
            if child.ready and child.proc.frozen is None:
                self.apply(model.Said(name, child.proc.incarnation, Beat(self._beats, 0.0)))
        self.apply(model.Tick())

    # -- children --

    def _fork(self, action: model.Fork) -> model.KernelEvent:
        name, sim = action.child, self.sim
        child = self.children[name] = Child(name, action.incarnation)
        proc = child.proc
        boot = Boot(name, action.incarnation, sim.config, STATE, RUN, 1, action.suspects, action.quarantined)  # type: ignore[arg-type]

        def told(message: Up) -> None:
            if proc.alive and self.children.get(name) is child:
                if isinstance(message, Ready):
                    child.ready = True
                self.apply(model.Said(name, proc.incarnation, message))

        async def life() -> None:
            child.worker = WORKERS.get(name, SimProbe)(boot, sim, proc, told)
            await child.worker.start()
            told(Ready())
            for event in child.early:
                child.worker.on_tree_event(event)
            child.early.clear()

        def begin() -> None:
            task = sim.loop.create_task(life())
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, Killed):
                sim.worker_failed(proc, error)

        proc.context.run(sim.loop.call_later, FORK_S, begin)
        if name == self.state.tree.listener:
            self._greet(child)
        return model.Forked(name, 100_000 + self.state.children[name].lives)

    def _greet(self, healer: Child) -> None:
        """A new healer hears how every child is, and what was set aside."""
        for event in self._latest.values():
            self._tell(healer, event)
        for other in self.state.children.values():
            if other.quarantined:
                event = TreeEvent(TreeKind.ITEM_QUARANTINED, other.spec.name, 0, "", 0.0, items=other.quarantined)
                self._tell(healer, event)

    def _report(self, event: TreeEvent) -> None:
        self.sim.coverage.see("tree", event.kind)
        if event.kind is TreeKind.STOPPED:
            self._latest.pop(event.child, None)
        elif event.kind is not TreeKind.ITEM_QUARANTINED:
            self._latest[event.child] = event
        listener = self.children.get(self.state.tree.listener)
        if listener is not None:
            self._tell(listener, event)

    def _tell(self, healer: Child, event: TreeEvent) -> None:
        loop = self.sim.loop
        for part in portions(event):
            for delay_s in self.sim.fates.of_kind("tree", loop.time()):
                self._tree_s = max(self._tree_s + ORDER_S, loop.time() + delay_s)
                loop.call_at(self._tree_s, self._hears, healer, part, context=healer.proc.context)
        if delay_s > LATENCY_S:
            self.sim.coverage.see("tree", "late")

    def _hears(self, healer: Child, event: TreeEvent) -> None:
        if healer.ready:
            healer.worker.on_tree_event(event)
        else:
            healer.early.append(event)

    # -- death --

    def kill(self, name: str, code: int = -9, only: Child | None = None) -> None:
        """This worker's process is no more."""
        child = self.children.get(name)
        if self.over or child is None or not child.proc.alive or (only is not None and child is not only):
            return
        self._end(child)
        self.sim.later(0.001, self._buried, name, code, child)

    def _end(self, child: Child) -> None:
        child.proc.alive = False
        self.sim.died(child.proc)

    def _buried(self, name: str, code: int, child: Child) -> None:
        if self.children.get(name) is child:
            del self.children[name]
            self.apply(model.Died(name, child.proc.incarnation, code, "", self.sim.jitter()))

    def dies(self) -> None:
        """With it every worker: the kernel sees to that (PDEATHSIG)."""
        if self.over:
            return
        self.over = True
        for child in self.children.values():
            if child.proc.alive:
                self._end(child)
        self.sim.later(AGAIN_S, self.sim.new_root)

    def settled(self) -> bool:
        """Every child is READY."""
        return not self.over and all(child.phase is model.Phase.READY for child in self.state.children.values())

    def reload(self, config: Any, again: frozenset[str]) -> None:
        """Another configuration was accepted."""
        self.apply(model.Refitted(healctl_tree(config), again))
        for child in self.children.values():
            if child.ready and child.proc.alive and hasattr(child.worker, "on_reload"):
                child.proc.context.run(self._reloads, child, config)

    def _reloads(self, child: Child, config: Any) -> None:
        child.worker.boot = msgspec.structs.replace(child.worker.boot, config=config)
        self.sim.loop.call_soon(child.worker.on_reload, config)
