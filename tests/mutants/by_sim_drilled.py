"""Mutants of drills; the simulator finds them out (tests/sim/drills.py)."""

from __future__ import annotations

from tests.mutants.kinds import BySim, mutant, on

_DRILL = (10.0, "drill", "all", 60.0, "matthew")
_UNHEARD = on("services", (9.0, "phone_off", 100.0), _DRILL)

DRILLED = (
    mutant(
        "a drill that nobody has heard of is good",
        BySim("a drill that passed has arrived", _UNHEARD),
        ("incidents.drill:timer_due", "_fail(turn, run, f", "_finish(turn, run, '' and f"),
    ),
    mutant(
        "a drill's incident stays when it has failed",
        BySim(
            "nothing of a drill stays",
            on("services", (9.0, "slow_probe", 3.0, 60.0), (10.0, "drill", "all", 5.0, "matthew")),
        ),
        ("incidents.drill:_fail", '_give_up(turn, run, "engine", f"the drill failed: {why}")', "pass"),
    ),
    mutant(
        "that a drill has failed is told to nobody",
        BySim("that a drill failed is an incident", _UNHEARD),
        ("incidents.drill:_finish", "own.part(turn, name, AnomalyType.DRILL_FAILED, why, firing=True)", "pass"),
    ),
    mutant(
        "two drills at a time",
        BySim("one drill at a time", on("services", (9.0, "phone_off", 100.0), _DRILL, (20.0, *_DRILL[1:]))),
        ("incidents.drill:order", "if known is not None and not known.over:", "if False:"),
    ),
    mutant(
        "a drill's trouble is left where it is",
        BySim("nothing is stuck for ever", on("services", _DRILL, (10.003, "cancel", "healctl:drill", 0, "matthew"))),
        ("incidents.drill:_close", "turn.effects.append(CarryDrill(run.id, drill_run.OVER))", "pass"),
    ),
    mutant(
        "a drill that a restart has cut off is under way for ever",
        BySim("a drill passes or fails", on("services", _DRILL, (10.012, "die", "healer", 0))),
        ("incidents.engine:_started", "drill.started(turn)", "pass"),
    ),
)
