"""Which tree there is, and whether it may be started: a bad one is refused whole, before any process exists.

`healctl_tree` is the only place that knows our own workers, and it knows them by name alone.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator

from supervisor.config import Config, TreeSection
from supervisor.errors import ConfigError
from supervisor.targets import FAMILIES, METRICS, channels, families, written
from supervisor.tree.kernel import backoff_s
from supervisor.tree.model import Backoff, ChildSpec, GroupSpec, OnTrip, TreeSpec
from supervisor.units import OFF
from supervisor.worker import Factory, Worker

LISTENER = "healer"
NAME_MAX = 80  # a database's name, and what is in front of it
HOLD, HOLD_WORKER = "hold:", "supervisor.store.hold:HoldWorker"
SOCKETS = {"store": ("store.sock",), LISTENER: ("healer.sock", "control.sock", "events.sock", "feed.sock")}
_NAME = re.compile(r"[A-Za-z0-9:._-]+")
PROBE_WORKER = "probes.runner:ProbeWorker"
NOTIFIER = "supervisor.notifier.process:NotifierWorker"


def healctl_tree(config: Config, holds: tuple[str, ...] = ()) -> TreeSpec:
    """Our own tree (DESIGN §1): core, hands, and one probe worker for each family that has targets.

    `holds`: the halted databases (R10). Their workers come right after the core: no other part's trouble delays them.
    """
    workers = [
        ("store", "supervisor.store.process:StoreWorker", "core"),
        (LISTENER, "supervisor.healer:HealerWorker", "core"),
        *((f"{HOLD}{name}", HOLD_WORKER, "hands") for name in holds if name in written(config)),
        ("executor", "remediators.executor:ExecutorWorker", "hands"),
        ("notifier", NOTIFIER, "hands"),
    ]
    workers += [(family, PROBE_WORKER, "probes") for family in families(config) if family in FAMILIES]
    if config.metrics.listen != OFF:
        # Nothing that it has in work could be poison: like a probe family, it is counted and set aside alone.
        workers.append((METRICS, "supervisor.scrape.process:MetricsWorker", "probes"))
    # Plugins come last: of ours nobody waits for one that does not get ready. What a channel of theirs does delays no
    # page, and each is counted and set aside alone.
    workers += [(family, PROBE_WORKER, "probes") for family in families(config) if family not in FAMILIES]
    workers += [(name, NOTIFIER, "probes") for name in channels(config)]
    return tree_of(config.tree, workers, listener=LISTENER)


def tree_of(section: TreeSection, workers: list[tuple[str, str, str]], *, listener: str = "") -> TreeSpec:
    """A tree of permanent workers (name, factory, group) in start order, its times as plain floats.

    The module of a probe family is imported before the fork, too.
    """
    return TreeSpec(
        groups=(
            GroupSpec("core", OnTrip.GIVE_UP, section.core_intensity, float(section.core_period)),
            GroupSpec("hands", OnTrip.QUARANTINE_ITEMS, section.hands_intensity, float(section.hands_period)),
            GroupSpec("probes", OnTrip.QUARANTINE_CHILD, section.probes_intensity, float(section.probes_period)),
        ),
        children=tuple(
            ChildSpec(
                name=name,
                factory=factory,
                group=group,
                sockets=SOCKETS.get(name, ()) if group == "core" else (),
                modules=_modules(name, factory),
                ready_within_s=float(section.ready_within),
                shutdown_s=float(section.shutdown),
                beat_within_s=float(section.beat_within),
                progress_within_s=float(section.progress_within),
                abort_grace_s=float(section.abort_grace),
            )
            for name, factory, group in workers
        ),
        backoff=Backoff(
            first_s=float(section.backoff_first),
            base_s=float(section.backoff_base),
            max_s=float(section.backoff_max),
            reset_s=float(section.backoff_reset),
        ),
        quarantine_retry_s=float(section.quarantine_retry),
        beat_s=float(section.beat),
        listener=listener,
    )


def _modules(name: str, factory: str) -> tuple[str, ...]:
    """What is imported before the fork: a family's own module, but nothing of a plugin's; with the store, what a halt
    in its midst will need."""
    if factory == PROBE_WORKER:
        return (f"probes.{name}",) if name in FAMILIES else ()
    return (HOLD_WORKER.partition(":")[0],) if name == "store" else ()


def preload(tree: TreeSpec) -> dict[str, Factory]:
    """Validates the whole tree and imports its workers, by child. Raises ConfigError that lists every fault."""
    faults = list(_faults(tree))
    factories: dict[str, Factory] = {}
    for child in tree.children:
        try:
            for module in child.modules:
                importlib.import_module(module)
            factories[child.name] = _load(child.factory)
        except (ImportError, AttributeError, TypeError) as error:
            faults.append(f"{child.name}: cannot load {child.factory!r}: {error}")
    if faults:
        raise ConfigError(
            "the tree cannot be started:\n  " + "\n  ".join(faults), "correct [tree], or reinstall healctl"
        )
    return factories


def _load(path: str) -> Factory:
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise TypeError("expected module:Class")
    found = getattr(importlib.import_module(module_name), class_name)
    if not (isinstance(found, type) and issubclass(found, Worker)):
        raise TypeError(f"{class_name} is not a Worker")
    if inspect.isabstract(found):
        raise TypeError(f"{class_name} does not implement {', '.join(sorted(found.__abstractmethods__))}")
    return found


def _faults(tree: TreeSpec) -> Iterator[str]:
    groups = {group.name: group for group in tree.groups}
    if not tree.children:
        yield "there is no child to start"
    for what, names in (("group", [g.name for g in tree.groups]), ("child", [c.name for c in tree.children])):
        yield from (f"two of the name {name!r} ({what})" for name, count in Counter(names).items() if count > 1)
    for child in tree.children:
        if not 0 < len(child.name) <= NAME_MAX or not _NAME.fullmatch(child.name):
            yield f"child name {child.name!r}: expected 1 to {NAME_MAX} letters, digits, '-', '_', '.' or ':'"
        if child.group not in groups:
            yield f"{child.name}: unknown group {child.group!r}, expected one of {', '.join(sorted(groups))}"
        times = (child.ready_within_s, child.shutdown_s, child.progress_within_s, child.abort_grace_s)
        if min(times) <= 0:
            yield f"{child.name}: ready_within, shutdown, progress_within and abort_grace must be greater than 0"
        if child.beat_within_s < 2 * tree.beat_s:
            yield f"beat_within is {child.beat_within_s:g} s: expected at least two beats of {tree.beat_s:g} s"
    if tree.listener and tree.listener not in {child.name for child in tree.children}:
        yield f"the listener {tree.listener!r} is not a child"
    if tree.beat_s <= 0 or tree.quarantine_retry_s <= 0:
        yield "beat and quarantine_retry must be greater than 0"
    yield from _backoff_faults(tree)


def _backoff_faults(tree: TreeSpec) -> Iterator[str]:
    backoff = tree.backoff
    if min(backoff.first_s, backoff.base_s) < 0 or backoff.max_s < max(backoff.first_s, backoff.base_s):
        yield "backoff_first and backoff_base must not be negative, and backoff_max not smaller than either"
        return
    if backoff.reset_s <= 0:
        yield "backoff_reset must be greater than 0"
    for group in tree.groups:
        if group.intensity < 1 or group.period_s <= 0:
            yield f"{group.name}_intensity must be at least 1 and {group.name}_period greater than 0"
            continue
        # A breaker that its own delays keep from tripping is no breaker.
        delays_s = sum(backoff_s(backoff, streak, 1.0) for streak in range(1, group.intensity + 1))
        if delays_s >= group.period_s:
            yield (
                f"{group.name}: {group.intensity} restarts are delayed by {delays_s:g} s in all, so that "
                f"{group.name}_intensity can never be reached within {group.name}_period = {group.period_s:g} s"
            )
