"""What one message for many incidents says (DESIGN §5): names when they are few, counts when they are many, and what
they have in common. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from supervisor.incidents.model import Incident, Severity
from supervisor.incidents.wording import GROUP_NAMES_MAX, SIGNAL_CHARS_MAX, clean, clean_lines, what
from supervisor.incidents.world import World

NAMED_WORST_MAX = 5
FAMILIES_MAX = 8
COMMON = 0.8  # such a part of them has it: it is likely the cause
AT_ONCE_S = 10.0
_GRAVITY = list(Severity)


def words(
    world: World, opened: Sequence[Incident], over: Sequence[Incident], still: Sequence[Incident]
) -> tuple[str, str]:
    """Subject and body. `opened`: nobody was told of them, some may be over by now; `over`, `still`: of which somebody
    was told before."""
    now_open = [incident for incident in opened if incident.open]
    healed = [incident for incident in opened if not incident.open]
    counts = [
        _count(len(now_open), "new and open"),
        _count(len(healed), "new and over by now"),
        _count(len(over), "over"),
        _count(len(still), "still open"),
    ]
    subject = f"{len(opened) + len(over) + len(still)} incidents in one message: {', '.join(filter(None, counts))}"
    named = len(opened) + len(over) + len(still) <= GROUP_NAMES_MAX
    lines = [
        subject + ".",
        _part("New", now_open, named=named),
        _part("New, and over by now", healed, named=named),
        _part("Over", over, named=named),
        _part("Still open", still, named=named),
        likely_cause(world, opened),
        "Decide: find the common cause; `healctl heal status` lists what is open." if now_open or still else "",
    ]
    return subject, clean_lines("\n".join(line for line in lines if line), SIGNAL_CHARS_MAX * 2)


def likely_cause(world: World, incidents: Sequence[Incident]) -> str:
    """What most of them share, the narrowest first: a host, a mount, a manager, a family; else when they began."""
    if len(incidents) < 2:
        return ""
    shared = Counter(feature for incident in incidents for feature in _features(world, incident))
    enough = max(2, COMMON * len(incidents))
    found = [(rank, -count, text) for (rank, text), count in shared.items() if count >= enough]
    began = [incident.detected_wall_s for incident in incidents]
    within_s = max(began) - min(began)
    at_once = f"all began within {max(within_s, 1):.0f} s"
    if found:
        _, count, text = min(found)
        when = f", and {at_once}" if within_s <= AT_ONCE_S else ""
        return f"Likely common cause: {text} ({-count} of {len(incidents)}{when})."
    if within_s <= AT_ONCE_S:
        return f"Likely common cause: something that they all need on this machine; {at_once}."
    return "No common cause is to be seen: they differ in host, mount, manager and family."


def _features(world: World, incident: Incident) -> list[tuple[int, str]]:
    kind, colon, name = incident.target_id.partition(":")
    found = [(3, f"the family {incident.family}")]
    if colon and kind == "fleet":
        found.append((0, f"the host {clean(name, 60)}"))
    if colon and kind == "disk":
        found.append((1, f"the mount {clean(name, 60)}"))
    target = world.target(incident.target_id)
    if target is not None and target.service:
        found.append((1, f"the service {clean(target.service, 60)}"))
    if target is not None and target.recipe is not None and target.recipe.manager:
        found.append((2, f"the manager {target.recipe.manager}"))
    return found


def _count(number: int, what_they_are: str) -> str:
    return f"{number} {what_they_are}" if number else ""


def _part(head: str, incidents: Sequence[Incident], *, named: bool) -> str:
    if not incidents:
        return ""
    if named:
        return f"{head}: {', '.join(clean(incident.target_id, 40) for incident in incidents)}."
    families = Counter(incident.family for incident in incidents).most_common(FAMILIES_MAX)
    counts = ", ".join(f"{family} {count}" for family, count in families)
    worst = sorted(incidents, key=lambda it: (-_GRAVITY.index(it.severity), it.detected_steady_s))[:NAMED_WORST_MAX]
    return f"{head}: {counts}. The worst: {'; '.join(what(incident) for incident in worst)}."
