"""The steps about one service: end what is left of it, and start it.

The service is the target itself, or the one that stands behind it (`Target.service`); pid file, match and recipe are
that service's. They find what is alive by those (`supervisor.identify`), never by a reading. Three rules stand above
all: a live process is ended only on a person's word or a person's approval (R3); what only a pid file calls this
service, and no probe has ever seen to be it, is not ended at all; and a service is never started a second time beside
itself (R15).

A service that systemd or PM2 runs is restarted by asking that manager (R8): it ends what still runs of it, so that
nothing here may. What lives outside of it would stay, and then run twice: that is a fence too.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

from remediators import command, fence
from remediators.base import Context, Fenced, Outcome, Step, StepFailed
from supervisor import identify, proc, redact
from supervisor.incidents.model import Authority, Effect, Recipe
from supervisor.incidents.readings import ProcessRef
from supervisor.messages import StepPlan

STOP_GRACE_S = 10.0  # between TERM and KILL, at most half of the step's timeout
STOP_ROUNDS_MAX = 5  # after the main process, what matches its command line: workers that it leaves behind
OUTPUT_BYTES_MAX = 1024 * 1024  # our own default output file is set aside beyond this when the service starts
LAST_WORDS_BYTES = 4096
COMMAND_CHARS_MAX = 200
ANCESTORS_MAX = 64

_MAY_END = frozenset({Authority.APPROVED, Authority.PERSON})


class StopService(Step):
    """Ends what is alive of the target: TERM, a grace, KILL, all through fences; a no-op when nothing is.

    Its effect is `change`, not `destroy`: it kills only what the next step brings back, and only by R3 (d) or a
    person's `execute`. Under any other authority a live process is a fence, and the step fails.
    """

    kind = "stop-service"
    effect = Effect.CHANGE

    def plan(self, ctx: Context) -> StepPlan:
        live = _alive(ctx)
        name = ctx.target.service_id
        if not live:
            return StepPlan(self.spec.step_id, f"nothing of {name} is alive: nothing to end", True)
        try:
            _refuse_to_end(ctx, live)
        except Fenced as fenced:
            return StepPlan(self.spec.step_id, f"this would fail: {fenced.message}", False)
        text = f"end {_in_full(live)}, of {name}: SIGTERM, after {self._grace_s():g} s SIGKILL"
        if _is_managed(ctx):
            text = f"{_in_full(live)}, of {name}, is left to its manager, whose restart ends it"
        return StepPlan(self.spec.step_id, text, True)

    async def run(self, ctx: Context) -> Outcome:
        live = _alive(ctx)
        name = ctx.target.service_id
        if not live:
            return Outcome(f"nothing of {name} was alive: nothing ended", changed=False)
        _refuse_to_end(ctx, live)
        if _is_managed(ctx):
            return Outcome(f"{_described(live)} of {name} is left to its manager, whose restart ends it", changed=False)
        children = {ref: _name(ref) for main in live for ref in fence.family(main)}
        total = fence.Ending()
        for round_number in range(STOP_ROUNDS_MAX):
            total += await fence.end(live, self._grace_s() if round_number == 0 else self._grace_s() / STOP_ROUNDS_MAX)
            live = _alive(ctx)
            if not live:
                break
            _refuse_strangers(ctx, live)
        if live:
            raise StepFailed(f"{name} is still alive: {_described(live)}; {total.text()}")
        left = [f"{ref.pid} ({text})" for ref, text in children.items() if _lives(ref)]
        also = f"; its children still run: {', '.join(left)}" if left else ""
        return Outcome(f"{name}: {total.text()}{also}")

    def _grace_s(self) -> float:
        return min(STOP_GRACE_S, self.spec.timeout_s / 2)


class StartService(Step):
    """Starts the target's recipe and leaves it running; done as soon as the program runs. It waits for no readiness:

    whether the service is well is what verification asks (R6). A starter that has already ended well is a success too.
    A manager's recipe is a command that asks it: done when that command has ended, and ended well.
    """

    kind = "start-service"
    effect = Effect.CHANGE
    leaves_running = True

    def plan(self, ctx: Context) -> StepPlan:
        recipe = ctx.recipe
        problem = command.missing_program(recipe) or self._in_the_way(ctx)
        text = f"start {command.words(recipe.argv)} in {recipe.cwd or '/'}; its output goes to {output_path(ctx)}"
        if recipe.manager:
            first = f"run {command.words(recipe.before)} (it may fail), then " if recipe.before else ""
            text = f"{first}run {command.words(recipe.argv)} to its end: {recipe.manager} restarts it"
        return StepPlan(self.spec.step_id, f"{text}: this would fail: {problem}" if problem else text, not problem)

    def _in_the_way(self, ctx: Context) -> str:
        """What is alive and would not be ended by a step before this one."""
        kinds = {spec.kind for spec in ctx.execution.runbook.steps}
        if StopService.kind in kinds and ctx.execution.authority in _MAY_END:
            return ""
        try:
            _refuse_second(ctx)
        except Fenced as fenced:
            return fenced.message
        return ""

    async def run(self, ctx: Context) -> Outcome:
        recipe = ctx.recipe
        if recipe.manager:
            return await _ask_manager(ctx)
        _refuse_second(ctx)
        path = output_path(ctx)
        fd = _open_output(path, ours=not recipe.output)
        try:
            written = os.fstat(fd).st_size
            held = await ctx.programs.hold(recipe, fd)
        finally:
            os.close(fd)
        _refuse_second(ctx)  # recording may have taken a while; nothing has run yet
        await ctx.programs.release(held)

        def last_words() -> str:
            return tail(path, written)

        pid = held.process.pid
        if _lives(held.process):
            ctx.programs.leave_running(held, last_words)
            return Outcome(f"started {command.words(recipe.argv)} as process {pid}", (str(path),), held.process)
        code = await held.ended()
        if code == 0:
            return Outcome(f"{command.words(recipe.argv)} (process {pid}) has started it and ended well", (str(path),))
        raise StepFailed(f"{command.words(recipe.argv)}: {command.exit_text(code)} at once\n{last_words()}".rstrip())


async def _ask_manager(ctx: Context) -> Outcome:
    """`before` (whose failure is told, and is no failure), then the restart itself. Raises Fenced, StepFailed."""
    recipe = ctx.recipe
    commands = [msgspec.structs.replace(recipe, argv=recipe.before)] if recipe.before else []
    lines: list[str] = []
    code: int | None = None

    async def check() -> None:
        _refuse_manager(ctx)

    for one in [*commands, recipe]:
        await check()
        code, output = await command.run_to_completion(ctx.programs, one, check)
        lines.append(f"{command.words(one.argv)}: {command.exit_text(code)}\n{output}".rstrip())
    if code != 0:
        raise StepFailed("\n".join(lines))
    return Outcome("\n".join(lines))


def _refuse_manager(ctx: Context) -> None:
    """Raises Fenced when the manager's restart would end what may not be ended, or double the service."""
    if ctx.execution.authority not in _MAY_END:
        _refuse_second(ctx)
    elif live := _alive(ctx):
        _refuse_to_end(ctx, live)


def _alive(ctx: Context) -> list[ProcessRef]:
    """What is alive of the target now, the process that was last seen to be it included: a pid file can get lost.

    Raises StepFailed when nobody can tell.
    """
    try:
        found = identify.live_processes(ctx.target.pid_file, ctx.target.match, ctx.exclude)
    except PermissionError as error:
        raise StepFailed(f"fence: cannot tell whether {ctx.target.service_id} is alive: {error.strerror}") from error
    known = ctx.execution.known
    if known is not None and known not in found and _lives(known):
        found.append(known)
    return found


def _is_managed(ctx: Context) -> bool:
    return ctx.target.recipe is not None and ctx.target.recipe.manager != ""


def _refuse_to_end(ctx: Context, live: list[ProcessRef]) -> None:
    """Raises Fenced when not all of `live` may be ended, by us or by the service's manager."""
    if ctx.execution.authority not in _MAY_END:
        raise Fenced(
            f"fence: {_described(live)} of {ctx.target.service_id} is alive; nothing was ended, nothing was started",
            "only a person's execute, or an approved runbook, may end a live process",
        )
    _refuse_strangers(ctx, live)
    if _is_managed(ctx) and (outside := [ref for ref in live if not runs_under(ctx.recipe, ref)]):
        raise Fenced(
            f"fence: {_in_full(outside)} is alive, but {ctx.recipe.manager} does not run it; its restart would start "
            f"{ctx.target.service_id} a second time",
            f"end that process first, or correct restart in [process.{ctx.target.service_id}]",
        )


def _refuse_strangers(ctx: Context, live: list[ProcessRef]) -> None:
    """Raises Fenced for a process that a pid file alone calls the service. Anybody's number can get into a pid file;
    without a `match` only a probe that has seen it before tells the service's own."""
    target = ctx.target
    strangers = [] if target.match else [ref for ref in live if ref != ctx.execution.known]
    if strangers:
        raise Fenced(
            f"fence: {target.pid_file} names {_in_full(strangers)}, which was never seen to be {target.service_id}; "
            "it was not ended",
            f"if it is the service, set match in [process.{target.service_id}], or wait until it has been probed",
        )


def runs_under(recipe: Recipe, ref: ProcessRef) -> bool:
    """Is it one of the service manager's own: in its unit's control group, or descended from its PM2?"""
    if recipe.manager == "systemd":
        unit = recipe.argv[-1] if "." in recipe.argv[-1] else f"{recipe.argv[-1]}.service"
        try:
            groups = Path(f"/proc/{ref.pid}/cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True  # it has just ended
        return _of_unit(groups, unit, user="--user" in recipe.argv)
    home = identify.pm2_home(command.clean_environment(recipe))
    daemon = identify.read_pid_file(os.path.join(home, "pm2.pid"), identify.PM2_TITLE).process
    at = proc.same(ref)
    for _ in range(ANCESTORS_MAX):
        if at is None or daemon is None or at.parent_pid <= 1:
            return False
        if at.parent_pid == daemon.pid:
            return True
        at = proc.stat(at.parent_pid)
    return False


def _of_unit(groups: str, unit: str, *, user: bool) -> bool:
    """Does /proc/PID/cgroup name this unit, of that manager? The system's and a user's may have one of the same name,
    and the restart of either ends nothing of the other's."""
    for line in groups.splitlines():
        parts = line.split("/")
        if unit not in parts:
            continue
        above = parts[: parts.index(unit)]
        owners = [part for part in above if part.startswith("user@")]
        if user and (owners == [f"user@{os.geteuid()}.service"] or not (owners or above[-1].startswith("system"))):
            return True
        if not user and not owners:
            return True
    return False


def _refuse_second(ctx: Context) -> None:
    """Raises Fenced when the service is alive, or when only a probe could tell and R3 (c) is the authority."""
    target = ctx.target
    if not target.pid_file and not target.match:
        # Behind a stale signal it probably lives, and hangs.
        blind = ctx.execution.authority is Authority.NOT_RUNNING or target.service != ""
        if blind and not _is_managed(ctx):
            raise Fenced(
                f"fence: {target.service_id} has neither pid_file nor match: nobody can tell that it is not running",
                f"set one of them in [process.{target.service_id}], or approve the runbook",
            )
        return
    live = _alive(ctx)
    if live:
        raise Fenced(f"fence: {target.service_id} is alive ({_described(live)}); it was not started a second time")


def _described(refs: list[ProcessRef]) -> str:
    return "process " + ", ".join(f"{ref.pid} ({_name(ref)})" for ref in refs)


def _in_full(refs: list[ProcessRef]) -> str:
    return "process " + ", ".join(f"{ref.pid} ({_command(ref)})" for ref in refs)


def _command(ref: ProcessRef) -> str:
    return command.words(redact.words(proc.command_line(ref.pid)))[:COMMAND_CHARS_MAX] or _name(ref)


def _name(ref: ProcessRef) -> str:
    status = proc.same(ref)
    return "gone" if status is None else status.name


def _lives(ref: ProcessRef) -> bool:
    status = proc.same(ref)
    return status is not None and status.live


def output_path(ctx: Context) -> Path:
    """The recipe's output file, or ours; a target's name is a TOML key and may hold anything, a slash too."""
    if ctx.recipe.output:
        return Path(ctx.recipe.output)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", ctx.target.service_id).lstrip(".")[:100] or "_"
    return ctx.state_dir / "output" / f"{name}.log"


def _open_output(path: Path, *, ours: bool) -> int:
    """Open for appending, mode 0600. Only our own default file is set aside (to .1) when it has grown too large.

    Raises StepFailed for what is not a regular file, OSError for the rest.
    """
    if ours:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > OUTPUT_BYTES_MAX:
            path.replace(path.with_name(f"{path.name}.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise StepFailed(f"cannot write its output to {path}: {error.strerror}", "see restart_output") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StepFailed(f"its output {path} is not a regular file", "see restart_output")
    os.set_blocking(fd, True)
    return fd


def tail(path: Path, start: int) -> str:
    """The last words written after offset `start`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(start, size), size - LAST_WORDS_BYTES))
            return file.read(LAST_WORDS_BYTES).decode(errors="replace")
    except OSError as error:
        return f"(its output {path} cannot be read: {error.strerror})"
