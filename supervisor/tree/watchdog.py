"""What systemd is told of our life (WatchdogSec): that the engine goes round, not that the root's loop turns.

A WATCHDOG=1 for each round that the healer reports, and for nothing else: so systemd's own clock runs from the last
round. Rounds of a healer that has only just started do not count, or one that dies again and again would do for a
healthy one. The tree acts first, systemd when that did not help. With the defaults, a healer that hangs is silent for

    beat 5 s + beat_within 20 s + abort_grace 1 s + its new start, at most ready_within 10 s
      + a third of WatchdogSec 30 s + beat 5 s = 71 s,

a store for less, which is within the shipped unit's WatchdogSec of 90 s; `least_s` is that sum for any configuration. A
suspended machine stops systemd's clock (CLOCK_MONOTONIC) and ours alike. Before READY=1 systemd does not watch; what
then, and at a stop, takes longer than systemd's own time is extended at each event of the tree, each of which has a
deadline of its own. While the tree stops there is no healer, and the root speaks for itself, for so long as a stop can
take.
"""

from __future__ import annotations

from supervisor.tree.model import Mode, TreeSpec
from supervisor.tree.sd_notify import Notifier

STEADY_PART = 3  # of WatchdogSec: so long a healer must have been READY before its rounds count
STOP_MAX_S = 600.0
MARGIN_S = 30.0  # beyond a child's own deadline; more than the last page takes (`kernel.PAGER_WITHIN_S`)


class Watchdog:
    """`due_s`: when `look` has something to say; each method returns why systemd could not be told, or nothing."""

    def __init__(self, notify: Notifier, tree: TreeSpec) -> None:
        self._notify = notify
        self._step_s = max(max(c.ready_within_s + c.abort_grace_s, 2 * c.shutdown_s) for c in tree.children) + MARGIN_S
        self._stop_by_s: float | None = None
        self.due_s = float("inf")

    def warning(self, tree: TreeSpec) -> str:
        """What is wrong with the time that systemd gives us; empty when nothing is."""
        given_s = self._notify.watchdog_s
        needs_s = least_s(tree)
        if given_s is None or given_s >= needs_s:
            return ""
        return (
            f"WatchdogSec={given_s:g} is less than the {needs_s:.0f} s that it may take to replace a healer that hangs:"
            " systemd will end all of healctl instead; raise it, or lower beat and beat_within in [tree]"
        )

    def round(self, ready_at_s: float | None, now_s: float) -> str:
        """A round of the healer that has been READY since `ready_at_s`."""
        given_s = self._notify.watchdog_s
        if given_s is None or ready_at_s is None or now_s - ready_at_s < given_s / STEADY_PART:
            return ""
        return self._notify.watchdog()

    def moved(self) -> str:
        """Something happened in a tree that starts or stops: it goes on, and the next may take its time, too."""
        return self._notify.extend(self._step_s)

    def look(self, mode: Mode, now_s: float) -> str:
        """After every turn of the root."""
        if mode is not Mode.STOPPING or self._notify.watchdog_s is None:
            return ""
        if self._stop_by_s is None:
            self._stop_by_s = now_s + STOP_MAX_S
        elif now_s < self.due_s:
            return ""
        self.due_s = now_s + self._notify.watchdog_s / 2 if now_s < self._stop_by_s else float("inf")
        return self._notify.watchdog() if now_s < self._stop_by_s else ""


def least_s(tree: TreeSpec) -> float:
    """For how long no round may count although the tree cures a core worker that hangs at its first try."""
    core = [child for child in tree.children if child.name == tree.listener] or list(tree.children)
    slowest_s = max(child.beat_within_s + child.abort_grace_s + child.ready_within_s for child in core)
    return (2 * tree.beat_s + slowest_s) * STEADY_PART / (STEADY_PART - 1)
