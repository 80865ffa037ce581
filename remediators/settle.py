"""After a crash: what is left of an interrupted execution's programs (DESIGN §2.3).

A service, or its starter, is left alive and said to be so: whether to go on is decided after a probe. A command that
was to run to its end gets its step's time once more and is then ended with its session: since when it has really run
nobody knows, for its process may have waited for it as a spare. Nothing is started here, ever.
"""

from __future__ import annotations

from remediators import fence, registry
from remediators.command import words
from remediators.fence import Fence
from supervisor import identify, proc
from supervisor.incidents.model import Execution, Program, StepSpec
from supervisor.messages import Settled

GATE_WAIT_S = 2.0  # a program whose gate died closed exits at once; it may not have had its turn yet


async def settle(execution: Execution, exclude: frozenset[int]) -> Settled:
    """Returns once nothing of the execution is in the middle of its work, or cannot be ended (`ok` is False)."""
    specs = {spec.step_id: spec for spec in execution.steps}
    lines: list[str] = []
    ok, running = True, False
    managed = execution.target.recipe is not None and execution.target.recipe.manager != ""
    for program in execution.programs:
        spec = specs.get(program.step_id)
        if spec is None:
            lines.append(f"{_named(program)}: its step {program.step_id} is not in the runbook; left alone")
            ok = False
            continue
        settled, alive, line = await _settle_program(program, spec, managed=managed)
        ok, running = ok and settled, running or alive
        lines.append(line)
    if not running and any(registry.step_of(spec).leaves_running for spec in specs.values()):
        running, line = _service_runs(execution, exclude)
        lines.extend([line] if line else [])
    return Settled(execution.id, ok=ok, ended=tuple(lines), running=running)


async def _settle_program(program: Program, spec: StepSpec, *, managed: bool) -> tuple[bool, bool, str]:
    """(nothing of it is in the middle of its work, a service lives, what was found and done).

    `managed`: it asks a service manager, and is over when that has done it.
    """
    name = _named(program)
    held = Fence.take(program.process)
    if held is None:
        return True, False, f"{name} has ended"
    with held:
        if identify.is_healctl(proc.command_line(program.process.pid)) and await held.gone(GATE_WAIT_S):
            return True, False, f"{name} never ran: its gate was not opened"
        status = proc.same(program.process)
        if status is None or not status.live:
            return True, False, f"{name} has ended"
        if registry.step_of(spec).leaves_running and not managed:
            return True, True, f"{name} is running: left alive"
        if await held.gone(spec.timeout_s):
            return True, False, f"{name} was awaited and has ended"
    ending = await fence.end_session(program.process)
    return not ending.left, False, f"{name} ran longer than {spec.timeout_s:g} s: {ending.text()}"


def _service_runs(execution: Execution, exclude: frozenset[int]) -> tuple[bool, str]:
    """Its starter may be gone and the service itself alive under another pid."""
    target = execution.target
    try:
        live = identify.live_processes(target.pid_file, target.match, exclude)
    except PermissionError as error:
        return True, f"cannot tell whether {target.target_id} is alive, so it counts as running: {error.strerror}"
    if not live:
        return False, ""
    return True, f"{target.target_id} is running as process {', '.join(str(ref.pid) for ref in live)}: left alive"


def _named(program: Program) -> str:
    return f"{words(program.argv)} (process {program.process.pid})"
