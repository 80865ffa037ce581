"""What a gateway says of itself: the JSON of its status command and of its health address, judged by fields only.

Pure. Never by words, which a release may change ("not running" contains "running"), nor by an exit code, which is 0
whatever `openclaw gateway status` found (SITE.md). What is not of the expected form is a bad answer, never a good one.
"""

from __future__ import annotations

import json

import msgspec

from supervisor.incidents.readings import Endpoint, Unavailable

TRIES_MAX = 50  # lines at which the JSON may begin; banners and log lines stand before it
FAILING_NAMED_MAX = 5
WORDS_CHARS_MAX = 200  # of a text that the gateway wrote
LIVE = frozenset({"live", "ok"})  # /healthz of OpenClaw, and of services in its style


class CannotTell(Exception):
    """It says nothing about the gateway; the text says why (R9)."""

    def __init__(self, reason: Unavailable, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Said(msgspec.Struct, frozen=True):
    """One answer, understood. `runtime`: what it says of its service, "" for nothing."""

    endpoint: Endpoint
    detail: str = ""
    runtime: str = ""


class _Runtime(msgspec.Struct):
    status: str | None = None


class _Service(msgspec.Struct):
    runtime: _Runtime | None = None


class _Port(msgspec.Struct):
    status: str | None = None


class _Failure(msgspec.Struct):
    kind: str | None = None


class _Rpc(msgspec.Struct, rename="camel"):
    ok: bool
    error: str | None = None
    timed_out: bool | None = None
    gateway_reached: bool | None = None  # it answered, whatever it answered
    connect_failure: _Failure | None = None


class _Status(msgspec.Struct):
    """`openclaw gateway status --json`; other fields are passed by."""

    rpc: _Rpc
    service: _Service | None = None
    port: _Port | None = None


class _Health(msgspec.Struct):
    """`/healthz` and `/readyz`: whichever of these it has must all be good, and it must have one."""

    ok: bool | None = None
    ready: bool | None = None
    status: str | None = None
    failing: object = None


def status(stdout: bytes) -> Said:
    """The verdict of a status command that has ended. Raises CannotTell.

    A gateway that turns our token down has answered: a restart would mend nothing.
    """
    try:
        found = msgspec.convert(_objects(stdout), _Status)
    except msgspec.ValidationError as error:
        return Said(Endpoint.BAD_ANSWER, f"not the status of a gateway: {error}")
    runtime = found.service.runtime.status if found.service and found.service.runtime else None
    runtime = (runtime or "")[:WORDS_CHARS_MAX]
    if found.rpc.ok:
        return Said(Endpoint.OK, runtime=runtime)
    words = " ".join((found.rpc.error or "")[:WORDS_CHARS_MAX].split())
    failure = found.rpc.connect_failure.kind if found.rpc.connect_failure else None
    if found.rpc.gateway_reached and failure == "auth-rejected":
        raise CannotTell(Unavailable.AUTHENTICATION, f"it answers, but does not let its status command in: {words}")
    port = found.port.status if found.port else None
    unanswered = Endpoint.TIMEOUT if found.rpc.timed_out else Endpoint.BAD_ANSWER
    verdict = Endpoint.REFUSED if port == "free" else unanswered
    told = {"service": runtime, "port": (port or "")[:WORDS_CHARS_MAX], "rpc": words}
    return Said(verdict, "; ".join(f"{name}: {text}" for name, text in told.items() if text), runtime)


def _objects(stdout: bytes) -> object:
    """The first JSON object with an `rpc` among the lines, else the first one. Raises CannotTell."""
    text = stdout.decode(errors="replace")
    decoder = json.JSONDecoder()
    found: list[object] = []
    at, tries = 0, 0
    while tries < TRIES_MAX and at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        if text[at] == "{":  # not an indented one: that would be a piece of an answer that was cut off
            tries += 1
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):  # a line of a banner that begins like JSON
                pass
            else:
                found.append(value)
                if "rpc" in value:
                    return value
        at = end
    if not found:
        raise CannotTell(Unavailable.BAD_DATA, f"it printed no JSON object: {_words(text)}")
    return found[0]


def health(code: int, body: bytes) -> Said:
    """The verdict of an answer over HTTP: 200, a JSON object, and every field of health in it good.

    A path that OpenClaw does not know is answered 200 with the HTML of its control page.
    """
    try:
        found = msgspec.json.decode(body, type=_Health)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        wrong = f"status {code}" if code != 200 else f"not the JSON of a health address ({error})"
        return Said(Endpoint.BAD_ANSWER, f"{wrong}: {_words(body[:1000].decode(errors='replace'))}")
    named = found.failing if isinstance(found.failing, list) else []
    failing = ", ".join(_words(str(one)) for one in named[:FAILING_NAMED_MAX])
    if found.ok is None and found.ready is None:
        good, words = found.status in LIVE, f"status {_words(str(found.status))}"
    else:
        good = found.ok is not False and found.ready is not False
        words = ", ".join(name for name in ("ok", "ready") if getattr(found, name) is False) + " is false"
    if code == 200 and good:
        return Said(Endpoint.OK)
    words = words if not good else f"status {code}"
    return Said(Endpoint.BAD_ANSWER, words + (f": {failing}" if failing else ""))


def _words(text: str) -> str:
    """The beginning of what it wrote, on one line."""
    short = " ".join(text[:WORDS_CHARS_MAX].split())
    return repr(short) if short else "nothing"
