"""The orders of a person at the dashboard: each asks what has to be asked, then the daemon, then shows its answer.

Read-only: none of them is taken. What cannot be taken back is confirmed by typing the target's name, not by a key.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.app import App

from supervisor.errors import HealError
from supervisor.incidents.model import State
from supervisor.units import DURATION_FORM, parse_duration
from tui import look, panes
from tui.dialogs import Consent, Question, Reader

if TYPE_CHECKING:
    from tui.model import Model
    from tui.source import Source

Json = dict[str, Any]

ACT_S = 3 * 3600.0  # as `healctl heal execute`: as long as the work takes
PLAN_S = 30.0
EVERY = "every target"


class Subject:
    """What the cursor is on: as much of it as is known."""

    def __init__(self, incident: Json | None, target_id: str, runbook_id: str) -> None:
        self.incident, self.target_id, self.runbook_id = incident, target_id, runbook_id


class Acting(App[None]):
    """The part of the dashboard that gives orders. `subject` says about what."""

    source: Source
    model: Model
    read_only = False

    def subject(self) -> Subject:
        raise NotImplementedError

    def take_lost(self) -> str | None:
        """What was under the cursor until news took it away, so that a key may be meant for it; told only once."""
        raise NotImplementedError

    def ask(
        self,
        action: str,
        args: Json,
        done: Callable[[Json], None],
        failed: Callable[[HealError], None] | None = None,
        deadline_s: float = 10.0,
    ) -> None:
        """In a thread that nobody waits for, not even at the end; `done` or `failed` is called on the screen's side."""

        def work() -> None:
            try:
                answer = self.source.ask(action, args, deadline_s)
            except HealError as error:
                self._back(failed or self.refused, error)
            else:
                self._back(done, answer)

        threading.Thread(target=work, name=f"ask {action}", daemon=True).start()

    def _back(self, call: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the screen that asked is gone
            self.call_later(call, value)

    def refused(self, error: HealError) -> None:
        hint = f"\n{look.plain(error.hint)}" if error.hint else ""
        self.notify(f"{look.plain(error.message)}{hint}", severity="error", markup=False, timeout=8)

    def told(self, words: str) -> None:
        self.notify(look.short(words), markup=False)

    # -- the orders --

    def action_approve(self) -> None:
        on = self._may("runbook_id")
        if on is None:
            return

        def approve(more: Json) -> None:
            args = {"runbook_id": on.runbook_id} | more
            self.ask("approve", args, approved)

        def approved(it: Json) -> None:
            runs = "runs now" if it["running_for"] else "does not run now"
            self.told(f"{it['runbook_id']} is now {it['mode']}, and {runs}")

        def every(word: str | None) -> None:
            if word is not None:
                approve({})

        def said(target: str | None) -> None:
            if target:
                approve({"target_id": target})
            elif target is not None:
                text = f"{on.runbook_id} then runs by itself for every target that it suits, and for those to come."
                self.push_screen(Question("Approve for every target", text, must=EVERY), every)

        text = (
            f"{on.runbook_id} then runs by itself for this target (empty: for every one), and now if one waits for it."
        )
        self.push_screen(Question("Approve", text, value=on.target_id, needed=False), said)

    def action_dry_run(self) -> None:
        on = self._subject("runbook_id")
        if on is None:
            return

        def said(target: str | None) -> None:
            if target is not None:
                args = {"runbook_id": on.runbook_id, "target_id": target}
                self.ask("dry_run", args, self._show_plan, deadline_s=PLAN_S)

        if on.target_id:
            said(on.target_id)
        else:
            self.push_screen(Question("Dry run", f"What would {on.runbook_id} do? For which target?"), said)

    def _show_plan(self, answer: Json) -> None:
        text = look.words("Nothing has been changed. It would:\n", "green")
        for number, step in enumerate(answer["steps"], 1):
            text.append(f"  {number}. {look.plain(step['description'])}\n")
        text.append(f"Clears the trouble: {'yes' if answer.get('predicts_clear') else 'not foreseen'}\n", "bold")
        self.push_screen(Reader(f"Dry run of {answer['runbook_id']} for {answer['target_id']}", text))

    def action_execute(self) -> None:
        on = self._may("runbook_id")
        if on is None:
            return

        def chosen(target: str | None) -> None:
            if target is None:
                return
            text = f"Run {on.runbook_id} on {target} now, anomaly or not? It may end a live process first."
            self.push_screen(Question("Execute", text, must=target), lambda said: self._execute(on.runbook_id, said))

        if on.target_id:
            chosen(on.target_id)
        else:
            self.push_screen(Question("Execute", f"Run {on.runbook_id} on which target?"), chosen)

    def _execute(self, runbook_id: str, target: str | None) -> None:
        if target is not None:
            self.told(f"{runbook_id} runs on {target} ...")
            args = {"runbook_id": runbook_id, "target_id": target, "confirm": True}
            self.ask("execute", args, self._show_execution, deadline_s=ACT_S)

    def _show_execution(self, answer: Json) -> None:
        text = Text()
        for step in answer["steps_executed"]:
            good = step["status"] == "success"
            text.append(f"{'+' if good else 'x'} {look.plain(step['step_id'])} ", "green" if good else "bold red")
            text.append(f"({step['duration_ms']:.0f} ms)\n")
            for line in str(step.get("output") or "").splitlines():
                text.append(f"    {look.plain(line)}\n", "dim")
        verified = {True: "yes", False: "no", None: "nothing to verify"}[answer["verification_passed"]]
        text.append(f"Verified: {verified}. Needs you: {'yes' if answer['escalation_needed'] else 'no'}.", "bold")
        self.push_screen(Reader(f"{answer['runbook_id']} on {answer['target_id']}", text))

    def action_acknowledge(self) -> None:
        if (on := self._may("incident")) is not None and on.incident is not None:
            about = on.incident["target_id"]
            self.ask(
                "ack", {"incident_id": on.incident["id"]}, lambda _: self.told(f"{about}: its page is not repeated")
            )

    def action_dismiss(self) -> None:
        on = self._may("incident")
        if on is None or on.incident is None:
            return
        incident_id = on.incident["id"]

        def said(reason: str | None) -> None:
            if reason is not None:
                args = {"incident_id": incident_id, "reason": reason}
                self.ask(
                    "dismiss", args, lambda it: self.told(f"dismissed until {look.clock_text(it['dismiss_until'])}")
                )

        about = f"{on.target_id}: {on.incident['anomaly_type']}"
        self.push_screen(Question("Dismiss", f"Why is this not worth acting on? (kept in its trail)\n{about}"), said)

    def action_undo(self) -> None:
        on = self._may("incident")
        if on is None or on.incident is None:
            return
        execution = on.incident.get("execution_id")
        if not execution:
            self.told("nothing was run for this incident: there is nothing to undo")
            return

        def said(target: str | None) -> None:
            if target is not None:
                self.ask("undo", {"execution_id": execution}, self._show_execution, deadline_s=ACT_S)

        self.push_screen(Question("Undo", f"Take back what {on.runbook_id} did?", must=on.target_id), said)

    def action_cancel(self) -> None:
        """What is seen to be at work is named; else the incident, or the target, and the daemon says what is."""
        on = self._may("target_id")
        if on is None:
            return
        incident = on.incident or {}
        seen = self.model.progress(on.target_id, incident.get("execution_id"))
        execution = seen["execution_id"] if seen is not None else None
        named = execution or ("" if seen is not None else incident.get("id")) or on.target_id

        def said(agreed: bool | None) -> None:
            if not agreed:
                return
            if seen is not None and not execution and named not in self.model.at_work:
                # A check is named by its target, on which something else may have begun since.
                self.told(f"the {seen['what']} of {named} is over: nothing is cancelled")
                return
            self.ask("cancel", {"id": named}, lambda it: self.told(f"{it['what']} is being stopped"))

        what = look.words(f"{look.short(on.target_id)}: nothing is seen to be at work, healctl will look\n", "yellow")
        if seen is not None:
            what = look.words(look.short(panes.at_work(seen)) + "\n", "bold")
        elif incident.get("state") == State.REMEDIATING:
            what = look.words(look.short(f"> {on.runbook_id} on {on.target_id}") + "\n", "bold")
        what.append(
            "It ends where nothing is half done. What it has done stays so, and nothing else is tried by itself."
        )
        self.push_screen(Consent("Cancel what is at work", what), said)

    def action_pause(self) -> None:
        on = self._may("target_id")
        if on is None:
            return

        def said(span: str | None) -> None:
            seconds = parse_duration(span) if span else None
            if span and seconds is None:
                self.told(f"found {span!r}, expected {DURATION_FORM}")
            elif span:
                args = {"target_id": on.target_id, "for_s": seconds, "reason": "from the dashboard"}
                self.ask("pause", args, lambda _: self.told(f"{on.target_id} is left alone for {span}"))

        text = f"Change nothing about {on.target_id}: for how long? Watching and telling go on."
        self.push_screen(Question("Pause", text, value="1h"), said)

    def action_resume(self) -> None:
        on = self._may("target_id")
        if on is None:
            return

        def said(target: str | None) -> None:
            if target is not None:
                self.ask("resume", {"target_id": target}, lambda _: self.told(f"{target} is no longer paused"))

        self.push_screen(Question("Resume", "healctl may change this target again:", value=on.target_id), said)

    def _may(self, needs: str) -> Subject | None:
        if self.read_only:
            self.told("this dashboard is read-only")
            return None
        return self._subject(needs)

    def _subject(self, needs: str) -> Subject | None:
        if (lost := self.take_lost()) is not None:
            self.told(f"{lost} has just left the list: nothing was done. Press again for what is under the cursor now")
            return None
        on = self.subject()
        if not getattr(on, needs):
            what = {"runbook_id": "a runbook", "incident": "an incident", "target_id": "a target"}[needs]
            self.told(f"this needs {what} under the cursor")
            return None
        return on
