"""What the healer shows of itself, at once and without a decision: the views of the control socket, and the metrics.

It reads what others keep. It must never ask the store, or keep anybody waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervisor.clock import SteadyClock
from supervisor.committer import Committer
from supervisor.config import Config
from supervisor.house import tree_view
from supervisor.incidents import choices, views
from supervisor.incidents.world import World
from supervisor.messages import Family, Reloaded, StoreStatus
from supervisor.metering import Metering
from supervisor.newsdesk import NewsDesk
from supervisor.pinging import Pinging
from supervisor.progressing import Progressing
from supervisor.samples import Samples
from supervisor.treetable import TreeTable


class Showing:
    """`store` and `reloaded` are the newest that the healer has heard of them."""

    def __init__(
        self,
        world: World,
        clock: SteadyClock,
        committer: Committer,
        news: NewsDesk,
        metering: Metering,
        tree: TreeTable,
        samples: Samples,
        pinging: Pinging,
        config: Callable[[], Config],
        progressing: Progressing,
    ) -> None:
        self.store: StoreStatus | None = None
        self.reloaded: Reloaded | None = None
        self._world = world
        self._clock = clock
        self._committer = committer
        self._news = news
        self._metering = metering
        self._tree = tree
        self._samples = samples
        self._pinging = pinging
        self._config = config
        self._progressing = progressing

    def by_name(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """The views that the desk answers."""
        return {
            "status": lambda: choices.add_to(self._status(), self._world, self._clock.now().wall_s),
            "tree": self._tree_view,
            "snapshot": self._snapshot,
            "targets": self._targets,
        }

    def families(self) -> tuple[Family, ...]:
        return (*self._metering.families(*self._standing()), *self._pinging.families())

    def _standing(self) -> tuple[World, list[dict[str, Any]], StoreStatus | None, str, float]:
        return self._world, self._tree.rows(), self.store, self._committer.trouble, self._clock.now().wall_s

    def _tree_view(self) -> dict[str, Any]:
        pieces = self._config().piece.values()
        shown = tree_view(*self._standing(), self.reloaded, self._metering.listening, pieces)
        return shown | {"dead_man": self._pinging.view(), "at_work": self._progressing.at_work()}

    def _targets(self) -> dict[str, Any]:
        return self._samples.view(self._world)

    def _snapshot(self) -> dict[str, Any]:
        """The state that the feed continues from: `seq` is the last event it contains."""
        return {"seq": self._news.seq, **self._status(), "children": self._tree.rows()}

    def _status(self) -> dict[str, Any]:
        """FR-007 `status`, and how far it is with what takes long, which the engine does not know."""
        return views.status(self._world) | {"at_work": self._progressing.at_work()}
