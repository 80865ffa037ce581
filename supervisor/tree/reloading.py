"""The root's part in a reload: starts the one-shot that reads, and puts in force what it accepted (`reload`).

It must never wait, and nothing that it meets may end the root.
"""

from __future__ import annotations

import os
from functools import partial

import msgspec

from supervisor import clock
from supervisor.config import accepted
from supervisor.errors import HealError
from supervisor.messages import Refusal, Reload, Reloaded, Up
from supervisor.tree import reload
from supervisor.tree.host import Host
from supervisor.tree.model import Mode, Refitted, StopOrdered

NEVER = float("inf")


class Reloading:
    """One reload at a time; `newest` is what became of the last one. `due_s`: when the one-shot must be done."""

    def __init__(self, host: Host, source: reload.Source | None) -> None:
        self._host = host
        self._source = source
        self._terminal = reload.has_terminal()
        self._began_s = 0.0
        self._again = False
        self._refusal = ""
        self.due_s = NEVER
        self.newest: Reloaded | None = None

    def terminal_is_gone(self) -> bool:
        """The terminal that we were started from has hung up: that SIGHUP, unlike any other, ends us."""
        return self._terminal and not reload.has_terminal()

    def start(self) -> None:
        """An order while another is carried out is carried out after it: the file may have changed in between."""
        host = self._host
        if host.state.mode is not Mode.RUNNING:
            host.log("warning", "root", "not reloaded: it is stopping")
            return
        if reload.NAME in host.children:
            self._again = True
            return
        self._began_s, self._refusal = clock.monotonic_s(), ""
        if self._source is None:
            self._tell("there is no configuration to read again")
            return
        main = partial(reload.main, self._source, host.config, host.runtime_dir, os.getpid())
        try:
            host.spawn(reload.NAME, "", main)
        except OSError as error:
            self._tell(f"cannot fork: {error}")
            return
        self.due_s = self._began_s + reload.WITHIN_S

    def hear(self, message: Up) -> None:
        if isinstance(message, Refusal):
            self._refusal = message.error

    def too_late(self) -> None:
        self.due_s = NEVER
        self._refusal = f"the configuration could not be read within {reload.WITHIN_S:g} s"
        self._host.children[reload.NAME].kill_group()

    def end(self, code: int) -> None:
        """The one-shot is over: what it accepted is put in force, as far as it differs."""
        self.due_s = NEVER
        if self.terminal_is_gone():
            self._host.apply(StopOrdered())
        if self._host.state.mode is not Mode.RUNNING:
            return
        path = self._host.runtime_dir / reload.ACCEPTED
        try:
            if code != 0:
                raise HealError(self._refusal or "reading it failed: see the lines above")
            fitting = reload.fit(self._host.config, accepted(path), str(path), self._host.holds)
        except (HealError, OSError, ValueError, RecursionError) as error:
            self._tell(str(error))
        else:
            self._put_in_force(fitting, str(path))
        if self._again:
            self._again = False
            self.start()

    def _put_in_force(self, fitting: reload.Fitting, path: str) -> None:
        host = self._host
        host.config, host.factories = fitting.config, fitting.factories
        if fitting.changes:
            for spec in fitting.tree.children:
                if spec.name in host.children and spec.name not in fitting.again:
                    host.tell(host.children[spec.name], Reload(path))
            host.apply(Refitted(fitting.tree, fitting.again))
        self._tell("", fitting.changes)

    def _tell(self, error: str, changes: tuple[str, ...] = ()) -> None:
        """To the log, to the listener, and to `healctl reload`, which waits for the file."""
        host = self._host
        self.newest = Reloaded(not error, self._began_s, clock.wall_s(), changes, error)
        if error:
            host.log("error", "root", f"not reloaded, nothing was changed: {error}")
        else:
            host.log("info", "root", f"reloaded: {', '.join(changes) or 'nothing differs'}")
        try:
            reload.write(host.runtime_dir / reload.OUTCOME, msgspec.json.encode(self.newest))
        except OSError as fault:
            host.log("warning", "root", f"cannot write {reload.OUTCOME}: {fault}")
        listener = host.children.get(host.state.tree.listener)
        if listener is not None:
            host.tell(listener, self.newest)
        host.ready_again()
