"""Prometheus' text format, version 0.0.4. Pure: families in, bytes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from supervisor.messages import Family, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def page(families: Iterable[Family]) -> bytes:
    """Everything, as one page. A family without samples still says what it is."""
    return "".join(line for family in families for line in _lines(family)).encode("utf-8", "replace")


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {_escaped(family.help)}\n"
    yield f"# TYPE {family.name} {family.kind}\n"
    for sample in family.samples:
        yield f"{family.name}{sample.suffix}{_labels(sample)} {number(sample.value)}\n"


def _labels(sample: Sample) -> str:
    if not sample.labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in sample.labels) + "}"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def number(value: float) -> str:
    """As Go reads it; a whole number without a point."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
