"""What one message for many incidents says (DESIGN §5): names when they are few, counts when they are many, and what
they have in common. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from supervisor.incidents.model import Incident, Severity
from supervisor.incidents.phrases import MANY, name_of, what
from supervisor.incidents.plain_text import clean, units
from supervisor.incidents.wording import GROUP_NAMES_MAX, on_host, room_for_many
from supervisor.incidents.world import OPEN_INCIDENTS_MAX, World

NAMED_WORST_MAX = 5
NAME_CHARS = (40, 24, 16)  # of each name, as long as all of them fit
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
    many = len(opened) + len(over) + len(still)
    subject = on_host(world, f"{many} troubles in one message: {', '.join(filter(None, counts))}")
    parts = (("New", now_open), ("New, and over by now", healed), ("Over", over), ("Still open", still))
    end = [_more(world), likely_cause(world, opened), _DECIDE if now_open or still else ""]
    for chars in NAME_CHARS if many <= GROUP_NAMES_MAX else ():
        named = [_named(head, incidents, chars) for head, incidents in parts]
        text = _joined(f"{subject}.", *named, *end)
        if units(text) <= room_for_many(world):
            return subject, text
    for worst in range(NAMED_WORST_MAX, -1, -1):
        counted = [_counted(head, incidents, worst) for head, incidents in parts]
        text = _joined(f"{subject}.", *counted, *end)
        if units(text) <= room_for_many(world):
            break
    return subject, text


_DECIDE = "Decide: find the common cause; see what is open: healctl heal status"


def _joined(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


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
    found = [(3, f"they are all {MANY.get(incident.family, incident.family)}")]
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


def _more(world: World) -> str:
    """What is beyond the limit is counted, so that nobody takes the rest for all."""
    more = len(world.turned_away)
    return f"And {more} more: healctl keeps {OPEN_INCIDENTS_MAX} open, of these it only counts." if more else ""


def _count(number: int, what_they_are: str) -> str:
    return f"{number} {what_they_are}" if number else ""


def _named(head: str, incidents: Sequence[Incident], chars: int) -> str:
    return f"{head}: {', '.join(name_of(it.target_id, chars) for it in incidents)}." if incidents else ""


def _counted(head: str, incidents: Sequence[Incident], worst_max: int) -> str:
    if not incidents:
        return ""
    families = Counter(incident.family for incident in incidents).most_common(FAMILIES_MAX)
    counts = ", ".join(f"{count} {MANY.get(family, family)}" for family, count in families)
    gravest = sorted(incidents, key=lambda it: (-_GRAVITY.index(it.severity), it.detected_steady_s))[:worst_max]
    worst = f" The worst: {'; '.join(map(what, gravest))}." if gravest else ""
    return f"{head}: {counts}.{worst}"
