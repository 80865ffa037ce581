"""Mutants that the exhaustive model finds out (tests/model/rules.py)."""

from __future__ import annotations

from tests.mutants.kinds import ByModel, mutant

BY_MODEL = (
    mutant(
        "an answer that was on its way counts as fresh",
        ByModel("auto", "the reading began before the question"),
        ("incidents.detect:on_reading", "asked is not None and reading.basis_mono_s >= asked", "asked is not None"),
    ),
    mutant(
        "nobody looks again whether a repair holds",
        ByModel("auto", "nobody waits for"),
        ("incidents.verify:_look_again", "turn.set_timer(TimerKind.VERIFY, execution.id, after_s)", "pass"),
    ),
    mutant(
        "a restart forgets the timers",
        ByModel("auto", "timers is another one after a crash"),
        ("incidents.recover:rebuild", "world.arm(timer)", "pass"),
    ),
    mutant(
        "a restart forgets what was approved",
        ByModel("asks", "runbook_states is another one after a crash"),
        ("incidents.recover:rebuild", "state for state in snapshot.runbook_states", "state for state in ()"),
    ),
    mutant(
        "a row is not given to the notifier",
        ByModel("bare", "nobody was given it"),
        ("incidents.posting:post", "turn.effects.append(DeliverRow(row))", "pass"),
    ),
    mutant(
        "a change of an incident is not written down",
        ByModel("auto", "is not what was written"),
        ("incidents.world:Turn.update", "self.records.append(PutIncident(new))", "pass"),
    ),
    mutant(
        "an execution runs under another authority than it has",
        ByModel("auto", "AssertionError"),
        ("incidents.remedy:begin", "authority=authority,", "authority=Authority.WHITELIST,"),
    ),
    mutant(
        "an execution that is over keeps its lock",
        ByModel("auto", "nobody waits for"),
        ("incidents.world:Turn.put_execution", "world.executions.pop(new.id, None)", "world.executions[new.id] = new"),
    ),
)
