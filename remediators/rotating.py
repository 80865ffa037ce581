"""`python -m remediators.rotating JOB`: rotates logs and prints one line of JSON about it (FR-003, R13).

A program of its own, so that it can be killed at any moment and so that the hands go on meanwhile. JOB is JSON made of
the configuration alone (R11). The smallest log comes first, and each makes room for the next: a full disk is where this
is needed. It stops between two logs when its time is over; what is done stays done.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from remediators import log_choice, rotate_settle, rotate_spare, safe_dir
from remediators.archive_dir import NAME, Folder
from remediators.log_choice import Chosen, How, LogsJob
from remediators.rotate_file import FULL, Done, Late, Log, Rotation
from remediators.rotate_spare import Spare
from remediators.safe_dir import Unsafe
from supervisor import at_work, clock, crashpoint, logfiles

TOLD_MAX = 40  # archives and troubles that are named
FOLDERS_MAX = 200  # in which an undo can find them again
LEFT_SHARE = 0.5  # of max_size: a log that is written is read again until at most so much stands in it


class Job(msgspec.Struct, frozen=True):
    """`device`: only logs that lie there (st_dev). `run` names this run in its archives. `within_s`: its time.
    `progress`: the file in which it says how far it is."""

    logs: tuple[LogsJob, ...]
    run: int
    within_s: float
    spare: str  # a folder of ours
    device: int | None = None
    progress: str = ""


class Report(msgspec.Struct, frozen=True):
    """What was done. `folders` (percent-encoded) are those in which archives of this run are."""

    said: str
    files: int = 0
    freed_bytes: int = 0
    archives: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    whole: bool = True  # every log of it left its place, so that it can be put back
    chosen: int = 0
    settled: int = 0
    stopped: bool = False  # somebody asked, before all was done


class _Work:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.end_s = clock.monotonic_s() + job.within_s
        self.written = {logs.name: safe_dir.written_folders(logs.paths) for logs in job.logs}
        self.done: list[tuple[Chosen, Done]] = []
        self.troubles: list[str] = []
        self.no_room: list[str] = []
        self.settled: list[str] = []
        self.spare = Spare(Path(job.spare))
        self.late = False
        self.teller = at_work.Teller(Path(job.progress) if job.progress else None)
        self._total_bytes = self._read_bytes = 0

    def settle(self) -> None:
        """First what an earlier run has left behind, wherever that was."""
        self.settled += ["it came home from our own folder"] * self.come_home()
        for logs in self.job.logs:
            beside = tuple(f"{os.path.dirname(path)}/{NAME}/.*" for path in logs.paths)
            found = logfiles.scan(beside, self.end_s)
            for path in sorted({os.path.dirname(os.path.dirname(file.path)) for file in found.files.values()}):
                with self._trouble(path), Folder(path, self.written[logs.name]) as folder:
                    if folder.open_archive(make=False):
                        self.settled += rotate_settle.settle(folder)

    def rotate(self, chosen: tuple[Chosen, ...]) -> None:
        """Those for which the disk is too full are tried again as long as others make room."""
        self._total_bytes = sum(file.bytes for file in chosen)
        while chosen:
            before, self.no_room = len(self.done), []
            for file in chosen:
                self._one(file)
            chosen = tuple(file for file in chosen if file.path in self.no_room)
            if len(self.done) == before and not (chosen and self._first_room(chosen)):
                break

    def _first_room(self, chosen: tuple[Chosen, ...]) -> bool:
        """No archive fits at all: our own reserve makes room, or another disk takes the first ones."""
        for file in chosen:
            before = len(self.done)
            with self._trouble(file.path), self.spare.alone():
                with Folder(file.folder, file.written) as folder:
                    if self.spare.release(folder.status.st_dev):
                        return True
                    if self.spare.beside(folder):
                        with Log(folder, os.path.basename(file.path)) as log:
                            rotation = Rotation(folder, self.job.run, self._read)
                            done = rotation.part(log, 0, rotate_spare.LOG_BYTES_MAX)
                            self.done += [(file, done)] if done.archives else []
                if len(self.done) > before and self._bring_home():
                    return True
        return False

    def come_home(self) -> int:
        """What lies in our own folder goes where it belongs, as far as there is room; how many archives."""
        if self.spare.places():
            with self._trouble(self.job.spare), self.spare.alone():
                return self._bring_home()
        return 0

    def _bring_home(self) -> int:
        count = 0
        written = tuple(folder for folders in self.written.values() for folder in folders)
        for place, path in self.spare.places():
            with self._trouble(path):
                with Folder(path, written) as folder:
                    rotate_spare.settle(place, folder)
                with Folder(path, written) as folder:
                    folder.open_archive(make=True)
                    count += rotate_spare.bring_home(place, folder)
        return count

    def _one(self, file: Chosen) -> None:
        if self.late:
            return
        with self._trouble(file.path), Folder(file.folder, file.written) as folder:
            folder.open_archive(make=True)
            with Log(folder, os.path.basename(file.path)) as log:
                rotation = Rotation(folder, self.job.run, self._read)
                if file.how is How.OLD and not log.is_written():
                    done = rotation.whole(log)
                else:
                    done = rotation.part(log, int(file.max_bytes * LEFT_SHARE))
                if done.archives:
                    self.done.append((file, done))

    def hold_reserve(self) -> None:
        with self._trouble(self.job.spare):
            self.spare.hold()

    def _read(self, count: int) -> None:
        """So much of a log is archived, though not yet for good; what is not whole is dropped by who raises Late."""
        self._read_bytes += count
        self.teller.tell("archive", min(self._read_bytes, self._total_bytes), self._total_bytes, "bytes")
        if at_work.asked():
            raise Late("it was stopped")
        if clock.monotonic_s() > self.end_s:
            raise Late

    @contextlib.contextmanager
    def _trouble(self, path: str) -> Iterator[None]:
        """What one log or folder raises becomes words, so that the others are not left."""
        try:
            yield
        except Late:
            self.late = True
        except Unsafe as error:
            self.troubles.append(f"{logfiles.printable(path)}: {error}")
        except FileNotFoundError:
            self.troubles.append(f"{logfiles.printable(path)}: gone")
        except OSError as error:
            if error.errno in FULL:
                self.no_room.append(path)
            else:
                self.troubles.append(f"{logfiles.printable(path)}: {error.strerror}")

    def report(self, choice: log_choice.Choice) -> Report:
        """In words, and as data."""
        freed = sum(done.freed_bytes for _, done in self.done)
        archives = [f"{file.folder}/{NAME}/{name}" for file, done in self.done for name in done.archives]
        said = [f"{len(self.done)} of {len(choice.chosen)} logs archived, {freed} bytes freed"]
        if self.settled:
            said.append(f"{len(self.settled)} archives of an earlier run looked after: {self.settled[0]}")
        stopped = self.late and at_work.asked()
        why = "it was stopped" if stopped else "the time was over"
        said += [f"{why}, the rest is as it was"] if self.late else []
        notes = [f"{logfiles.printable(file.path)}: {done.note}" for file, done in self.done if done.note]
        full = [f"{logfiles.printable(path)}: no room for even a part of it" for path in self.no_room]
        said += [*notes[:TOLD_MAX], *_few(self.troubles + full), *choice.notes, *choice.too_large[:TOLD_MAX]]
        folders = sorted({file.folder for file, _ in self.done})
        return Report(
            said="; ".join(said),
            files=len(self.done),
            freed_bytes=freed,
            archives=tuple(logfiles.printable(path) for path in archives[:TOLD_MAX]),
            folders=tuple(quote(os.fsencode(path)) for path in folders) if len(folders) <= FOLDERS_MAX else (),
            whole=all(done.whole for _, done in self.done),
            chosen=len(choice.chosen),
            settled=len(self.settled),
            stopped=stopped,
        )


def _few(troubles: list[str]) -> list[str]:
    told = [f"not done: {text}" for text in troubles[:TOLD_MAX]]
    return told + ([f"and {len(troubles) - TOLD_MAX} more not done"] if len(troubles) > TOLD_MAX else [])


def work(job: Job) -> Report:
    """Raises OSError only where nothing could be done at all."""
    rotation = _Work(job)
    rotation.settle()
    choice = log_choice.choose(job.logs, job.device, rotation.written, rotation.end_s)
    rotation.rotate(choice.chosen)
    rotation.come_home()
    rotation.hold_reserve()
    rotation.teller.over()
    return rotation.report(choice)


def main() -> int:
    crashpoint.i_am("rotate")
    at_work.heed()
    os.umask(0o077)
    report = work(msgspec.json.decode(sys.argv[1], type=Job))
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
