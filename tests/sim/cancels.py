"""R15, judged from outside: what a person has cancelled begins nothing more, and nothing follows it by itself."""

from __future__ import annotations

from typing import Any

from supervisor.incidents.model import Authority, Execution


class Cancels:
    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self._since_s: dict[str, float] = {}  # execution -> since when the ledger says that it was cancelled
        self._stopped: set[str] = set()  # those of which a person was told that they are

    def told(self, it: Execution) -> None:
        if not it.cancelled:
            self._since_s.pop(it.id, None)
        elif it.id not in self._since_s:
            self._since_s[it.id] = self._watch.loop.time()
            self._watch.coverage.see("cancelled", it.state)

    def answered(self, answer: dict[str, Any]) -> None:
        """A person hears that it is stopped."""
        execution_id = answer.get("execution_id")
        if execution_id is None:
            return
        self._stopped.add(execution_id)
        if execution_id not in self._since_s:
            self._watch.fail("what is said to be cancelled is written down", execution_id)

    def intent(self, it: Execution) -> None:
        """By nobody's order."""
        if it.incident_id is None or it.authority is Authority.HARMLESS:
            return
        for old in self._watch.executions.values():
            since_s = self._since_s.get(old.id)
            if since_s is None or old.incident_id != it.incident_id or self._watch.approved_s >= since_s:
                continue
            self._watch.fail("nothing follows by itself what was cancelled", f"{it.runbook.id}: {it.id} after {old.id}")

    def step_begins(self, it: Execution) -> None:
        if it.id in self._stopped:
            self._watch.fail("what was cancelled begins no step", it.id)


def stopped(it: Execution) -> bool:
    """A person has had it stopped, and nothing of it had failed by then: no failure of its runbook."""
    by_itself = it.verified is False or any(not result.success and not result.cancelled_by for result in it.results)
    return it.cancelled and not by_itself
