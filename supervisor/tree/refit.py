"""From one tree to another while it runs: the rules of the kernel's Refitted event. Pure, like the kernel."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.messages import TreeKind
from supervisor.tree.model import LIVE, ChildState, Mode, Order, Phase, Restart, Then, TreeSpec
from supervisor.tree.turn import Turn, dead


class Refitting(Turn):
    """The part of a step that changes which children there are."""

    def refit(self, tree: TreeSpec, again: frozenset[str]) -> None:
        """`tree` is in force from now on. While everything is stopped it changes nothing."""
        if self.mode is not Mode.RUNNING:
            return
        before, self.children = self.children, {}
        self.tree = tree
        self.groups = {group.name: group for group in tree.groups}
        for spec in tree.children:
            child = before.pop(spec.name, None)
            if child is None:
                self.put(ChildState(spec=spec))
            else:
                self._keep(replace(child, spec=spec), anew=spec.name in again)
        for child in before.values():
            if child.phase in LIVE:
                self.order_out(self.put(replace(child, then=Then.LEAVE)))
            else:
                self.report(TreeKind.STOPPED, child)

    def _keep(self, child: ChildState, *, anew: bool) -> None:
        self.put(child)
        if child.then is Then.LEAVE:  # it was on its way out, and is wanted again
            self.put(replace(child, then=Then.AGAIN))
        elif child.phase is Phase.ENDED and child.spec.restart is Restart.PERMANENT:
            self.put(replace(dead(child, Phase.WAITING), streak=0, restarts_s=()))
        elif anew and child.phase is Phase.QUARANTINED:
            self.put(replace(child, phase=Phase.WAITING, deadline_s=None, probation=True))
        elif anew and child.phase in LIVE:
            self.order_out(self.put(replace(child, then=Then.AGAIN)))

    def order_out(self, child: ChildState) -> None:
        """The order to stop, for one that could obey it; one whose fork is under way gets it when it lives."""
        if child.phase in (Phase.STARTING, Phase.READY) and child.pid:
            until_s = self.now_s + child.spec.shutdown_s
            self.put(replace(child, phase=Phase.STOPPING, deadline_s=until_s, beat_deadline_s=None))
            self.actions.append(Order(child.spec.name))

    def is_out(self, child: ChildState) -> None:
        """Dead as ordered: forgotten, or to be started when its turn comes."""
        self.report(TreeKind.STOPPED, child)
        if child.then is Then.LEAVE:
            del self.children[child.spec.name]
        else:
            self.put(dead(child, Phase.WAITING))
