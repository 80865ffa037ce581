"""The `pipeline` family: where does each task of a pipeline stand, and does anybody speak of it? (FR-001, FR-002, R9)

The tasks come and go with the pipeline's state file (SITE.md): it is read at each poll, when it changes, and by the
interval even while it names no task. Since when a task stands in its stage the engine knows (`incidents.stages`).

A state file that cannot be read says nothing about its tasks: they are unavailable, never "gone". It must never write,
and never judge.
"""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial

from probes.base import Began, Events, Probe, Refused, Source, begin, begin_outside
from probes.inotify import FileWatch
from probes.look import Look
from probes.mailbox import Mail, Mailbox, Where, where_of
from supervisor.aside import aside
from supervisor.config import Config, PipelineSection
from supervisor.incidents.readings import HealthReading, PipelineData, SourceReading, Unavailable
from supervisor.jsonfile import BadJson, CannotRead, load
from supervisor.tasks import STATE_BYTES_MAX, TASK_ID, State, Task, decode

log = logging.getLogger(__name__)

OUTSIDE_BYTES_MAX = 1024 * 1024
PREFIX = "pipeline:"
TARGET_ID = re.compile(PREFIX + TASK_ID.pattern)
CHANGED_S = 0.01  # not 0: a file that changes all the time must not keep its own read from ending
ANSWER_S = 0.1  # of the deadline, for telling that nothing came
FIRST_LOOK_S = 0.2  # at the start; only where a file system hangs it takes so long
MAIL_S = 2.0
GONE = "it is not among the active tasks any more"
COMPLAINTS_MAX = 1000  # said once each


class PipelineProbe(Probe):
    """Reads the tasks of the `[pipeline.NAME]` state files."""

    family = "pipeline"

    def __init__(self, config: Config) -> None:
        self._sections: dict[str, PipelineSection] = {}
        self._looks: dict[str, Look[State]] = {}
        self._states: dict[str, State] = {}  # as last read: a file that cannot be read any more changes nothing
        self._moving: tuple[Task, ...] = ()
        self._complaints: set[tuple[str, str]] = set()
        self._where: Where | None = None
        self._events: Events | None = None
        self._watch: FileWatch | None = None
        self._pollers: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}
        self.reconfigure(config)
        self._first_look()

    def reconfigure(self, config: Config) -> None:
        """What is known of an unchanged pipeline stays known, its watch included."""
        before, self._sections = self._sections, dict(config.pipeline)
        where = where_of(config)
        if where != self._where:
            self._where, mailbox = where, Mailbox(where)
            self._mail: Look[Mail] = Look("messages", lambda: mailbox.read(self._moving))
        for name in before:
            if self._sections.get(name) != before[name]:
                del self._looks[name]
                self._states.pop(name, None)
                if name in self._pollers:
                    self._pollers.pop(name)[0].cancel()
        for name, section in self._sections.items():
            if name not in self._looks:
                self._looks[name] = Look(f"pipeline {name}", partial(self._look, section.state_file))
        if self._watch is not None:
            self._watch.keep(section.state_file for section in self._sections.values())
        if self._events is not None:
            self._poll()

    def _first_look(self) -> None:
        """So that its tasks are known from the first moment on, without a loop (`healctl check --live`)."""
        first = {name: aside(partial(self._look, s.state_file), name) for name, s in self._sections.items()}
        for name, job in first.items():
            try:
                self._took(name, job.result(FIRST_LOOK_S))
            except (CannotRead, OSError) as error:  # TimeoutError is one
                self._complain(name, str(error) or "its state file could not be read yet: it hangs")

    def sources(self) -> tuple[Source, ...]:
        found: dict[str, Source] = {}
        for name in self._sections:
            tasks = self._states[name].tasks if name in self._states else {}
            # A pipeline without tasks is a target itself: a file that nobody can read must not go unnoticed (R9).
            for own in tasks or (name,):
                found.setdefault(PREFIX + own, self._source(PREFIX + own, name))
        return tuple(found.values())

    def source(self, target_id: str) -> Source | None:
        """Any well-formed task may have been one of ours."""
        own = target_id.removeprefix(PREFIX)
        if own in self._sections and target_id != own:
            return self._source(target_id, own)
        if not self._sections or not TARGET_ID.fullmatch(target_id):
            return None
        return self._source(target_id, self._home(target_id.removeprefix(PREFIX)) or next(iter(self._sections)))

    def watch(self, events: Events) -> None:
        self._events = events
        self._watch = FileWatch(self._on_change)
        self._poll()

    def close(self) -> None:
        for poller, _ in self._pollers.values():
            poller.cancel()
        if self._watch is not None:
            self._watch.close()

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        source = self.source(target_id)
        if source is None:
            return begin(Source(target_id, 0, 0), self.family).cannot(Unavailable.ERROR, "it is not watched any more")
        began = begin(source, self.family)
        try:
            async with asyncio.timeout(deadline_s - ANSWER_S):
                return await self._read(target_id.removeprefix(PREFIX), began)
        except CannotRead as error:
            return began.cannot(error.reason, str(error))
        except TimeoutError:
            why = f"the pipeline's state file could not be read within {deadline_s:g} s: it hangs"
            return began.cannot(Unavailable.DEADLINE, why)

    def _source(self, target_id: str, name: str) -> Source:
        interval_ms = round(float(self._sections[name].interval) * 1000)
        return Source(target_id, interval_ms, interval_ms)

    def _home(self, task_id: str) -> str:
        """The pipeline that lists the task, or cannot say where it stands; "" for none."""
        return next((name for name, s in self._states.items() if task_id in s.tasks or task_id in s.odd), "")

    # -- the state files --

    def _look(self, path: str) -> State:
        """In a thread. The watch comes first, so that nothing happens between it and the read."""
        if self._watch is not None:
            self._watch.hold(path)
        return load(path, STATE_BYTES_MAX, decode)[0]

    async def _fresh(self, name: str) -> State:
        """Raises CannotRead."""
        look = self._looks.get(name)
        if look is None:
            raise CannotRead(Unavailable.ERROR, f"pipeline {name} is not watched any more")
        try:
            state = await look.now()
        except CannotRead as error:
            self._complain(name, str(error))
            raise
        except OSError as error:  # nobody looked at it
            raise CannotRead(Unavailable.ERROR, f"it cannot be looked at: {error}") from error
        if self._looks.get(name) is look:
            self._took(name, state)
        return state

    def _took(self, name: str, state: State) -> None:
        before, listed = self._states.get(name), {source.source_id for source in self.sources()}
        # In the order of the configuration: of two pipelines with a task of one name the first has it.
        states = {**self._states, name: state}
        self._states = {each: states[each] for each in self._sections if each in states}
        self._moving = tuple(task for each in self._states.values() for task in each.tasks.values() if task.moving)
        for problem in state.problems:
            self._complain(name, problem)
        if self._events is None:
            return
        if listed != {source.source_id for source in self.sources()}:
            self._events.sources_changed()
        for task_id, task in state.tasks.items():
            if before is not None and before.tasks.get(task_id, task) != task:
                self._events.read_soon(PREFIX + task_id, CHANGED_S)

    def _complain(self, name: str, problem: str) -> None:
        if (name, problem) not in self._complaints and len(self._complaints) < COMPLAINTS_MAX:
            self._complaints.add((name, problem))
            log.warning("pipeline %s: %s", name, problem)

    def _poll(self) -> None:
        for name in self._sections:
            if name not in self._pollers:
                changed = asyncio.Event()
                poller = asyncio.get_running_loop().create_task(self._polling(name, changed))
                self._pollers[name] = (poller, changed)

    async def _polling(self, name: str, changed: asyncio.Event) -> None:
        """Tasks appear without anybody asking; and one that is listed may have gone."""
        interval_s = float(self._sections[name].interval)
        while True:
            changed.clear()
            try:
                await self._fresh(name)
            except CannotRead as error:
                log.debug("pipeline %s: %s", name, error)  # said once as a warning, and by its tasks' readings
                self._read_all(name)
            try:
                async with asyncio.timeout(interval_s):
                    await changed.wait()
            except TimeoutError:
                continue

    def _read_all(self, name: str) -> None:
        if self._events is not None and name in self._states:
            for task_id in self._states[name].tasks:
                self._events.read_soon(PREFIX + task_id, CHANGED_S)

    def _on_change(self, path: str) -> None:
        for name, section in self._sections.items():
            if section.state_file == path and name in self._pollers:
                self._pollers[name][1].set()

    # -- one task --

    async def _read(self, task_id: str, began: Began) -> HealthReading:
        if task_id in self._sections:
            count = len((await self._fresh(task_id)).tasks)
            return began.tells(self._still(task_id, task_id, f"its state file names {count} active tasks"))
        home = self._home(task_id)
        others = [name for name in self._sections if name != home]
        for names in ([home] if home else [], others):
            # All of them: while one cannot be read, nobody can tell that a task is in none.
            states = await asyncio.gather(*(self._fresh(name) for name in names))
            for name, state in zip(names, states, strict=True):
                if task_id in state.tasks:
                    return await self._tell(name, state.tasks[task_id], began)
                if task_id in state.odd:
                    return began.cannot(Unavailable.BAD_DATA, state.odd[task_id])
        left = [name for name in (home, *others) if name in self._sections]
        if not left:
            return began.cannot(Unavailable.ERROR, "its pipeline is not watched any more")
        return began.tells(self._still(left[0], task_id, GONE))

    async def _tell(self, name: str, task: Task, began: Began) -> HealthReading:
        section = self._sections.get(name)
        if section is None:
            return began.cannot(Unavailable.ERROR, "it is not watched any more")
        mail = await self._messages() if task.moving else Mail()
        if mail.trouble and self._events is not None:
            # Also while somebody else's readings stand in for our polls: they cannot tell either.
            self._events.read_soon(PREFIX + task.task_id, float(section.interval))
        return began.tells(_data(name, section, task, mail))

    async def _messages(self) -> Mail:
        try:
            async with asyncio.timeout(MAIL_S):
                return await self._mail.now()
        except TimeoutError:
            return Mail(trouble=f"brain.db could not be read within {MAIL_S:g} s")
        except OSError as error:
            return Mail(trouble=f"brain.db cannot be looked at: {error}")

    def _still(self, name: str, task_id: str, detail: str) -> PipelineData:
        """Nothing moves there, so that nothing can be stuck."""
        return PipelineData(
            task_id=task_id,
            moving=False,
            stuck_after_s=float(self._sections[name].stuck_after),
            pipeline=name,
            detail=detail,
        )

    # -- from outside --

    def outside(self, given: SourceReading) -> tuple[HealthReading, ...]:
        """`NAME.state`, or `pipeline.state` (the site's word) where there is one pipeline; the data is the whole file.

        Nobody says in it who spoke of a task: by such a reading alone nothing is stuck.
        """
        name = self._named(given.source_id)
        if not given.available:
            raise Refused("it says that its source could not be read; our own reading will tell")
        if len(given.data_json) > OUTSIDE_BYTES_MAX:
            raise Refused(f"a state has at most {OUTSIDE_BYTES_MAX // 1024} KiB")
        try:
            state = decode(given.data_json)
        except BadJson as error:
            raise Refused(f"the state {error}") from error
        section = self._sections[name]
        known = self._states.get(name, State({})).tasks.keys()
        mail = Mail(trouble="a reading from outside names none")
        told = [_data(name, section, task, mail) for task in state.tasks.values()]
        told += [self._still(name, task_id, GONE) for task_id in known - state.tasks.keys() - state.odd.keys()]
        return tuple(self._outside(data, given) for data in told)

    def _outside(self, data: PipelineData, given: SourceReading) -> HealthReading:
        source = self._source(PREFIX + data.task_id, data.pipeline)
        return begin_outside(source, self.family, given).tells(data)

    def _named(self, source_id: str) -> str:
        name = source_id.removesuffix(".state")
        if source_id == name or not (name in self._sections or name == self.family):
            raise Refused(f"{source_id!r} is not the state of any [pipeline.NAME]")
        if name in self._sections:
            return name
        if len(self._sections) != 1:
            raise Refused(f"there is not one pipeline but {len(self._sections)}: say which, as NAME.state")
        return next(iter(self._sections))


def _data(name: str, section: PipelineSection, task: Task, mail: Mail) -> PipelineData:
    trouble = f"the messages about it cannot be read: {mail.trouble}" if mail.trouble and task.moving else ""
    return PipelineData(
        task_id=task.task_id,
        moving=task.moving,
        stuck_after_s=float(section.stuck_after),
        pipeline=name,
        stage=task.stage,
        status=task.status,
        title=task.title,
        updated_wall_s=task.updated_wall_s,
        message_wall_s=mail.newest.get(task.task_id),
        messages_known=not trouble,
        detail=task.why or trouble,
    )
