"""The one place that reads a clock.

Pure rooms (incidents, tree kernel, probe schedule) never import this module's functions; they take an `Instant`.

Two times are kept apart, since they answer different questions:

* `steady_s` is for durations and deadlines. It is CLOCK_MONOTONIC, shifted so that it reads like wall time when the
  clock is first anchored; a change of the wall clock never moves it. Time in which the machine is suspended does not
  count: nothing could fail or be repaired then, and no deadline may run out because a lid was closed. Within one boot
  it goes on over restarts of healctl (`Anchor` is stored in the ledger); after a reboot it starts at the wall time,
  never before the last value stored.
* `wall_s` is for people and for other programs: seconds since the epoch, as the machine believes them.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import msgspec

from supervisor.incidents.model import Instant


class Anchor(msgspec.Struct, frozen=True):
    """Keeps the steady clock continuous over a restart: in boot `boot_id`, CLOCK_MONOTONIC `mono_s` was `steady_s`."""

    boot_id: str
    mono_s: float
    steady_s: float


def boot_id() -> str:
    """The kernel's random id of this boot (proc(5), /proc/sys/kernel/random/boot_id)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def monotonic_s() -> float:
    """CLOCK_MONOTONIC in seconds: the same value in every process of this boot."""
    return time.monotonic()


def wall_s() -> float:
    """Seconds since the epoch."""
    return time.time()


class SteadyClock:
    """Reads `Instant`s. `last` is the anchor found in the ledger, None for a new ledger."""

    def __init__(self, last: Anchor | None = None) -> None:
        boot, mono, wall = boot_id(), time.monotonic(), time.time()
        if last is None:
            steady = wall
        elif last.boot_id == boot and mono >= last.mono_s:
            steady = last.steady_s + (mono - last.mono_s)
        else:
            steady = max(wall, last.steady_s)
        self._boot_id = boot
        self._offset_s = steady - mono

    def now(self) -> Instant:
        mono = time.monotonic()
        return Instant(steady_s=mono + self._offset_s, wall_s=time.time(), mono_s=mono)

    def anchor(self) -> Anchor:
        mono = time.monotonic()
        return Anchor(boot_id=self._boot_id, mono_s=mono, steady_s=mono + self._offset_s)


def local_zone() -> tzinfo:
    """The zone of this host with its changes to summer time: that of $TZ, else /etc/localtime. Where neither names one
    that is known, the offset of this moment."""
    from zoneinfo import ZoneInfo

    try:
        name = os.environ.get("TZ", "").removeprefix(":") or "/etc/localtime"
        if not name.startswith("/"):
            return ZoneInfo(name)
        with Path(name).open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, LookupError):
        return datetime.fromtimestamp(time.time(), UTC).astimezone().tzinfo or UTC


def rfc3339(wall_s: float) -> str:
    """RFC 3339 in UTC with milliseconds, e.g. `2026-02-18T09:30:00.000Z`."""
    text = datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def local_naive_iso(wall_s: float) -> str:
    """Local time without a zone, as Synapse's `messages.created_at` has it (SITE.md)."""
    return datetime.fromtimestamp(wall_s, UTC).astimezone().replace(tzinfo=None).isoformat()
