"""DESIGN §2.8, judged from outside: five of a family at once, and three repairs must verify before the rest go on."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from supervisor.incidents.model import Authority, Execution, Incident, State, is_over
from tests.sim.loop import STEADY_AHEAD_S

AT_ONCE_S = 9.0  # the engine says 10: at the mark itself either is right
UNSETTLED = frozenset({State.DETECTED, State.DIAGNOSING, State.REMEDIATING, State.VERIFYING})
NOBODY_GOES_ON = frozenset({"gateway", "fleet"})


class Storms:
    """A storm lasts from the fifth at once until nothing of its family is left to settle."""

    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self._since_s: dict[str, float] = {}  # family in a storm -> since when
        self._proved_s: defaultdict[str, list[float]] = defaultdict(list)  # when its automatic repairs have verified

    def moved(self, old: Incident | None, it: Incident) -> None:
        family = it.family
        if old is None and len(self._at_once(family)) >= 5:
            self._since_s.setdefault(family, self._watch.loop.time())
        elif family in self._since_s and not any(
            i.open and i.family == family and i.state in UNSETTLED for i in self._watch.incidents.values()
        ):
            del self._since_s[family]

    def told(self, old: Execution | None, it: Execution) -> None:
        anew = it.verified and (old is None or not old.verified)
        if anew and it.authority is not Authority.PERSON:
            self._proved_s[it.target.family].append(self._watch.loop.time())

    def begins(self, it: Execution) -> None:
        """An intent of the engine's own, to change something."""
        watch = self._watch
        if it.incident_id is None:
            return
        mine = watch.incidents[it.incident_id]
        if mine.family in watch.family_pauses:
            watch.fail("storms are bounded", f"{it.id}: {mine.family} is paused after canaries that failed")
        waiting = self._at_once(mine.family)
        ids = {i.id for i in waiting}
        if len(waiting) < 5 or mine.id not in ids:
            return
        if self._proved(mine.family) >= 3 and mine.family not in NOBODY_GOES_ON:
            return
        executions = [e for e in watch.executions.values() if e.authority is not Authority.PERSON]
        runs = {i.execution_id for i in waiting}
        unproved = [e for e in executions if e.id in runs and not is_over(e)]
        # What began before there were five is no canary; the first three of it are.
        five_s = sorted(watch.opened_s[i.id] for i in waiting)[4] + STEADY_AHEAD_S
        before = [e for e in executions if e.incident_id in ids and e.created_steady_s < five_s]
        most = 3 + max(0, len(before) - 3)
        if mine.family in NOBODY_GOES_ON or len(unproved) >= most:
            watch.fail("storms are bounded", f"{it.id} is the {len(unproved) + 1}th at once of {len(waiting)}")

    def _proved(self, family: str) -> int:
        """Since the storm began, or shortly before: what is approved, and goes on with others, is of their storm."""
        from_s = min(self._since_s.get(family, float("inf")), self._watch.loop.time() - AT_ONCE_S)
        return sum(at_s >= from_s for at_s in self._proved_s[family])

    def _at_once(self, family: str) -> list[Incident]:
        now_s = self._watch.loop.time()
        return [
            i
            for i in self._watch.incidents.values()
            if i.open and i.family == family and not i.outside and i.state in UNSETTLED
            and now_s - self._watch.opened_s[i.id] <= AT_ONCE_S
        ]  # fmt: skip
