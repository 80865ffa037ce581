"""What of ours in the file system others need: the locks, and the sockets that workers have bound.

Without them we would go on, deaf to everybody who comes later, and a second daemon could start beside us. Looked at
with the beats. What was removed is made anew; what another healctl holds by now is left to it.
"""

from __future__ import annotations

import os
import stat

from supervisor.errors import HealError
from supervisor.tree.host import Host
from supervisor.tree.lock import Lock
from supervisor.tree.model import Mode, Ousted, Phase, Refitted


class Guard:
    """`locks`: the runtime directory's first."""

    def __init__(self, host: Host, locks: list[Lock]) -> None:
        self._host = host
        self._locks = locks
        self._due_s = 0.0
        self._seen: dict[str, tuple[str, tuple[int, int]]] = {}  # socket -> incarnation, file

    def look(self, now_s: float) -> None:
        """At most once a beat; some stat(2) of our own directories."""
        state = self._host.state
        if now_s < self._due_s or state.mode is not Mode.RUNNING:
            return
        self._due_s = now_s + state.tree.beat_s
        for lock in self._locks:
            if not lock.intact() and not self._take_again(lock):
                return
        again = {name for name in state.children if self._is_deaf(name)}
        if again:
            self._host.log("error", "root", f"sockets of {', '.join(sorted(again))} are gone: started anew")
            self._host.apply(Refitted(state.tree, frozenset(again)))

    def _take_again(self, lock: Lock) -> bool:
        """False: everything ends."""
        try:
            lock.take_again()
        except (HealError, OSError) as error:
            self._host.log("error", "root", f"{lock.path} is ours no more: {error}")
            self._host.apply(Ousted(f"{lock.path} was removed, and cannot be taken again: {error}"))
            return False
        self._host.log("error", "root", f"{lock.path} was removed by somebody; made anew")
        return True

    def _is_deaf(self, name: str) -> bool:
        child = self._host.state.children[name]
        if child.phase is not Phase.READY:
            return False
        deaf = False
        for socket in child.spec.sockets:
            try:
                found = os.lstat(self._host.runtime_dir / socket)
            except OSError:
                deaf = True
                continue
            file = (found.st_dev, found.st_ino)
            deaf = deaf or not stat.S_ISSOCK(found.st_mode)  # it may have been put there before our first look
            incarnation, before = self._seen.get(socket, ("", file))
            self._seen[socket] = (child.incarnation, file)
            deaf = deaf or (incarnation == child.incarnation and before != file)
        return deaf
