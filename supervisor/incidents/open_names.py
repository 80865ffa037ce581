"""Names that plugins bring, in enums that are otherwise closed: what is wrong, and over what it is told. Pure."""

from __future__ import annotations

import re
from enum import StrEnum

NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")  # of a probe family, a kind of step, a channel
ANOMALY = re.compile(r"[a-z][a-z0-9-]{0,31}\.[a-z][a-z0-9_]{0,47}")
OPEN_MAX = 1_000  # in one enum; a configuration has a handful


def opened(kind: type[StrEnum], value: object, form: re.Pattern[str]) -> StrEnum | None:
    """A member for a plugin's name: one object for each, as of our own, so that `is` holds. None for what is no such
    name. Neither listed nor counted among the enum's own (the way of `enum.Flag` with its pseudo-members)."""
    known = kind._value2member_map_
    if value in known:  # msgspec asks us without having looked
        found = known[value]
        assert isinstance(found, StrEnum)
        return found
    if not isinstance(value, str) or not form.fullmatch(value) or len(known) >= OPEN_MAX:
        return None
    member = str.__new__(kind, value)
    member._name_, member._value_ = value, value
    known[value] = member
    return member
