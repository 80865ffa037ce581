"""The step `prune-files`: old files in the places of `[cleanup]`, and in no other, are removed (FR-003).

There is no undo: it destroys, and so waits for a person (R3). The work is done by `remediators.pruning`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from remediators import rotation
from remediators.base import Context, NoParams, Outcome, Step, StepFailed, Stops
from remediators.pruning import Job, Report, Walk, What
from supervisor import targets
from supervisor.aside import aside
from supervisor.config import dirs
from supervisor.incidents.model import Effect
from supervisor.messages import StepPlan

MODULE = "remediators.pruning"
BESIDE_A_DATABASE = ("-wal", "-shm", "-journal")


class PruneParams(NoParams, frozen=True, kw_only=True):
    """`what`: "tmp" or "pycache"."""

    what: What


class PruneFiles(Step):
    """That there was nothing to remove is no failure: the probe judges what all steps together have freed."""

    kind = "prune-files"
    effect = Effect.DESTROY
    stops = Stops.ASKED
    Params = PruneParams

    def plan(self, ctx: Context) -> StepPlan:
        job = self._job(ctx, rotation.look_s(ctx))
        found = Walk(job, act=False).run()
        where = ", ".join(job.places) or "nowhere: [cleanup] names no place"
        text = f"remove old {job.what} files below {where}: {found.said}; this cannot be undone"
        frees = found.freed_bytes + _frees_before(ctx)
        return StepPlan(self.spec.step_id, text, rotation.disk_clears(ctx, frees), found.names, found.freed_bytes)

    async def run(self, ctx: Context) -> Outcome:
        job = await asyncio.wrap_future(aside(lambda: self._job(ctx, rotation.within_s(self.spec)), "places"))
        if not job.places:
            return Outcome("[cleanup] names no place for it", changed=False)
        words = msgspec.json.encode(job).decode()
        report = await rotation.run_program(ctx, MODULE, words, Report)
        if report.stopped or (report.troubles and not report.files):
            raise StepFailed(report.said)
        return Outcome(report.said, report.names, changed=report.files > 0)

    def _job(self, ctx: Context, within_s: float) -> Job:
        """Blocking."""
        assert isinstance(self.params, PruneParams)
        section, what = ctx.config.cleanup, self.params.what
        places = section.tmp_dirs if what is What.TMP else section.pycache_dirs
        return Job(what, places, tuple(_kept(ctx)), float(section.older_than), within_s, rotation.device_of(ctx))


_MAKE_ROOM = frozenset({rotation.RotateLogs.kind, PruneFiles.kind})


def _frees_before(ctx: Context) -> int:
    """What the steps before this one would free on disk: together they make the room."""
    kinds = {spec.step_id: spec.kind for spec in ctx.execution.runbook.steps}
    return sum(plan.frees_bytes for plan in ctx.planned if kinds[plan.step_id] in _MAKE_ROOM)


def _kept(ctx: Context) -> Iterator[str]:
    """Every file that the configuration names, and our own folders: a stop file removed would start a service."""
    config, own = ctx.config, dirs(ctx.config)
    yield from (str(own.state_dir), str(own.runtime_dir), str(ctx.state_dir))
    for process in config.process.values():
        yield from (process.pid_file, process.stop_file, process.restart_output)
        yield process.endpoint.partition("unix:")[2]
    for trading in config.trading.values():
        yield from (trading.signal_file, trading.trades_db)
    yield from (pipeline.state_file for pipeline in config.pipeline.values())
    yield from (config.fleet.hosts_file, config.fleet.identity_file, config.fleet.known_hosts)
    for database in targets.databases(config).values():
        yield from (database.path, *(f"{database.path}{suffix}" for suffix in BESIDE_A_DATABASE))
