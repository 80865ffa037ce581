"""signal-cli's JSON-RPC, and what the programs that send print: read and written, pure, no connection.

Errors come inside HTTP 200, and a partial failure is a *result*: only an answer in which every recipient's type is
SUCCESS means that a message was sent. Codes and shapes are those of signal-cli 0.13 (man signal-cli-jsonrpc).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from supervisor.notifier.channel import DeliveryError, Permanent, Retryable, Unsure, quote

RATE_LIMIT_PAUSE_S = 30.0
RATE_LIMITED = -5
UNREGISTERED = -1001  # ours: signal-cli has no code for it
NESTING_MAX = 6
NAMED_MAX = 5  # recipients that one error names

# code -> (may it pass by itself?, plain words)
_CODES: dict[int, tuple[bool, str]] = {
    -32700: (False, "it did not understand the request"),
    -32600: (False, "it did not accept the request"),
    -32601: (False, "it cannot send; is it signal-cli's daemon?"),
    -32602: (False, "it does not know the account; check notify.signal.account against `signal-cli listAccounts`"),
    -32603: (True, "it failed inside"),
    -1: (False, "it refused the message"),
    -3: (True, "it could not reach Signal's servers"),
    -4: (False, "the recipient has a new safety number; compare it, then `signal-cli trust`"),
    RATE_LIMITED: (True, "Signal limits the rate of this account"),
    -6: (False, "Signal wants a captcha solved: `signal-cli submitRateLimitChallenge`"),
    UNREGISTERED: (False, "the recipient is not registered with Signal"),
}
# What signal-cli's exit codes mean (signal-cli(1)), in the codes of its JSON-RPC.
_EXITS = {1: -1, 2: -32603, 3: -3, 4: -4, 5: RATE_LIMITED, 6: -6}
_NO_ACCOUNT = re.compile(rb"is not registered|account does not exist|No local users found")
# What openclaw passes on of signal-cli's error: its code, or only its words.
_OPENCLAW_RPC = re.compile(r"Signal RPC (-\d{1,6})\b")
_OPENCLAW = (
    (re.compile(r"(?i)unregistered|UNREGISTERED_FAILURE"), UNREGISTERED),
    (re.compile(r"(?i)untrusted|IDENTITY_FAILURE"), -4),
    (re.compile(r"(?i)captcha"), -6),
    (re.compile(r"(?i)rate.?limit"), RATE_LIMITED),
    (re.compile(r"(?i)account (?:parameter|does not exist)"), -32602),
)
_TYPES: dict[str, tuple[bool, str]] = {
    "NETWORK_FAILURE": (True, "the network failed"),
    "RATE_LIMIT_FAILURE": (True, "Signal limits the rate"),
    "INVALID_PRE_KEY_FAILURE": (True, "the keys do not fit yet"),
    "UNREGISTERED_FAILURE": (False, "not registered with Signal"),
    "IDENTITY_FAILURE": (False, "a new safety number; compare it, then `signal-cli trust`"),
}
_RECIPIENT = re.compile(r"(?P<number>\+[1-9]\d{4,14})|group:(?P<group>\S{1,200})|username:(?P<username>\S{1,200})")


class _Address(msgspec.Struct, frozen=True):
    uuid: str | None = None
    number: str | None = None
    username: str | None = None


class _Result(msgspec.Struct, frozen=True):
    type: str
    recipient: _Address | None = msgspec.field(name="recipientAddress", default=None)
    token: str | None = None  # of a captcha that Signal wants solved
    pause_s: float | None = msgspec.field(name="retryAfterSeconds", default=None)

    @property
    def who(self) -> str:
        """What signal-cli takes as a recipient again, empty when it told none."""
        return (self.recipient.number or self.recipient.uuid or "") if self.recipient else ""


class _Response(msgspec.Struct, frozen=True):
    timestamp: int | None = None
    results: tuple[_Result, ...] = ()


class _ErrorData(msgspec.Struct, frozen=True):
    response: _Response | None = None


class _Error(msgspec.Struct, frozen=True):
    code: int
    message: str = ""
    data: _ErrorData | None = None


class _Answer(msgspec.Struct, frozen=True):
    id: str | None = None
    result: _Response | None = None
    error: _Error | None = None


class _Spoken(msgspec.Struct, frozen=True):
    id: str | None = None


class NotEveryone(DeliveryError):
    """Some were reached: only `missing` are to be tried again, or everybody else gets a copy each time."""

    def __init__(self, cause: DeliveryError, missing: tuple[str, ...]) -> None:
        super().__init__(str(cause), cause.pause_s)
        self.cause = cause
        self.missing = missing


class To(msgspec.Struct, frozen=True):
    """Whom a message is for: exactly one of the three is set. `people`: numbers or uuids."""

    people: tuple[str, ...] = ()
    group: str = ""
    username: str = ""

    def params(self) -> dict[str, Any]:
        """For JSON-RPC's `send`."""
        if self.people:
            return {"recipient": list(self.people)}
        return {"groupId": self.group} if self.group else {"username": self.username}

    def arguments(self) -> tuple[str, ...]:
        """For `signal-cli send`."""
        return self.people or (("-g", self.group) if self.group else ("-u", self.username))

    def target(self) -> str:
        """For `openclaw message send`. Raises Retryable for several people, of whom it reaches but one."""
        if len(self.people) > 1:
            raise Retryable(f"openclaw: not started: it sends to one target, and {len(self.people)} were missed")
        if self.people:
            return self.people[0] if self.people[0].startswith("+") else f"uuid:{self.people[0]}"
        return f"group:{self.group}" if self.group else f"username:{self.username}"


def address(recipient: str) -> To:
    """Who "+E164", "group:ID" or "username:x" is. Raises Permanent with what to configure."""
    if not recipient:
        raise Permanent('nobody to send to: set notify.signal.recipient ("+15551234567", "group:ID" or "username:x")')
    match = _RECIPIENT.fullmatch(recipient)
    if match is None:
        raise Permanent(
            f'notify.signal.recipient is {recipient!r}; expected "+15551234567", "group:ID" or "username:x"'
        )
    if match["number"]:
        return To(people=(match["number"],))
    return To(group=match["group"] or "", username=match["username"] or "")


def request(request_id: str, account: str, to: To, text: str) -> bytes:
    """One `send`. Without `account` the daemon must serve a single one."""
    params = {**({"account": account} if account else {}), **to.params(), "message": text}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "method": "send", "params": params})


def version_request(request_id: str) -> bytes:
    """What any daemon that lives answers at once."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "method": "version"})


def read_version(url: str, request_id: str, body: bytes) -> None:
    """Any answer to our question will do, a refusal too. Raises Permanent for what is none."""
    try:
        answer = msgspec.json.decode(body, type=_Spoken)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Permanent(f"{url} answered something that is not signal-cli's JSON-RPC ({quote(body)})") from None
    if answer.id not in (request_id, None):
        raise Retryable(f"{url} answered another question than ours ({quote(body)})")


def read(url: str, request_id: str, body: bytes) -> str:
    """The timestamp by which Signal knows the message. Raises Retryable, Permanent or NotEveryone."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Permanent(f"{url} answered something that is not signal-cli's JSON-RPC ({quote(body)})") from None
    if answer.error is not None:
        raise _refusal(url, answer.error)
    if answer.id != request_id or answer.result is None:
        raise Unsure(f"{url} answered another question than ours ({quote(body)})")
    if not answer.result.results or answer.result.timestamp is None:
        raise Retryable(f"{url} does not say that anybody was reached ({quote(body)})")
    _check(url, answer.result.results)
    return str(answer.result.timestamp)


def read_one_shot(name: str, code: int, stdout: bytes, stderr: bytes) -> str:
    """The timestamp that `signal-cli -o json send` printed. Raises Retryable, Permanent or NotEveryone."""
    lines = stdout.strip().splitlines()
    try:
        printed = msgspec.json.decode(lines[-1], type=_Response) if lines else _Response()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        printed = _Response()
    _check(name, printed.results)
    if code == 0 and printed.results and printed.timestamp is not None:
        return str(printed.timestamp)
    if code == 0:
        raise Retryable(f"{name} does not say that anybody was reached ({quote(stdout)})")
    error = -32602 if _NO_ACCOUNT.search(stderr) else _EXITS.get(code, code)
    raise _of_code(f"{name} ended with {code}", error, stderr.decode(errors="replace"))


def read_openclaw(name: str, code: int, stdout: bytes, stderr: bytes) -> str:
    """The message's id from `openclaw message send --json`. Raises Retryable or Permanent.

    Its success names the message; its failures say `ok: false`, or carry another delivery status than "sent".
    """
    start = stdout.find(b"{")
    try:
        answer = msgspec.json.decode(stdout[start:]) if start >= 0 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    told = _flat(answer, 0)
    said = next((told[key] for key in ("errorMessage", "error", "message") if isinstance(told.get(key), str)), "")
    raw = said.encode() or stderr or stdout
    text, reason = raw.decode(errors="replace"), quote(raw)
    status = told.get("deliveryStatus", "sent")
    if code != 0 or answer is None or told.get("ok") is False or told.get("dryRun") or status != "sent":
        rpc = _OPENCLAW_RPC.search(text)
        known = int(rpc[1]) if rpc else next((error for form, error in _OPENCLAW if form.search(text)), None)
        if known is not None:
            raise _of_code(name, known, reason)
        raise Retryable(f"{name} did not send (exit code {code}: {reason})")
    proof = told.get("messageId") or told.get("timestamp")
    if not proof:
        raise Retryable(f"{name} does not say that anybody was reached ({quote(stdout)})")
    return str(proof)


def _refusal(url: str, error: _Error) -> DeliveryError:
    results = error.data.response.results if error.data and error.data.response else ()
    if any(result.type != "SUCCESS" for result in results):
        return _failure(url, results)
    return _of_code(f"signal-cli at {url}", error.code, error.message)


def _of_code(who: str, code: int, message: str) -> DeliveryError:
    retryable, words = _CODES.get(code, (True, "it answered an error that healctl does not know"))
    text = f"{who}: {words} (error {code}: {quote(message.encode())})"
    if retryable:
        return Retryable(text, RATE_LIMIT_PAUSE_S if code == RATE_LIMITED else 0.0)
    return Permanent(text)


def _flat(value: object, depth: int) -> dict[str, Any]:
    """Every key of an answer with its plain value, the outermost first: openclaw's versions nest it differently."""
    found: dict[str, Any] = {}
    if not isinstance(value, dict) or depth > NESTING_MAX:
        return found
    found = {str(key): one for key, one in value.items() if not isinstance(one, dict | list)}
    for key, one in value.items():
        if key == "deliveryStatus" and isinstance(one, dict):
            found.setdefault(key, one.get("status"))
        found = {**_flat(one, depth + 1), **found}
    return found


def _check(url: str, results: tuple[_Result, ...]) -> None:
    failed = tuple(result for result in results if result.type != "SUCCESS")
    if not failed:
        return
    missing = tuple(result.who for result in failed)
    error = _failure(url, results)
    if len(failed) < len(results) and all(missing):
        raise NotEveryone(error, missing)
    raise error


def _failure(url: str, results: tuple[_Result, ...]) -> DeliveryError:
    """Names who was not reached and why. What cannot pass for one of them still may for the others: soon again."""
    failed = [result for result in results if result.type != "SUCCESS"]
    known = [_known(result) for result in failed]
    names = [
        f"{result.who or 'somebody'}: {words} ({result.type})"
        for result, (_, words) in zip(failed[:NAMED_MAX], known, strict=False)
    ]
    more = f" and {len(failed) - NAMED_MAX} more" if len(failed) > NAMED_MAX else ""
    reached = len(results) - len(failed)
    message = f"signal-cli at {url} reached {reached} of {len(results)}, not {'; '.join(names)}{more}"
    limited = any(result.type == "RATE_LIMIT_FAILURE" for result in failed)
    told_s = max((result.pause_s or 0.0 for result in failed), default=0.0)
    pause_s = told_s or (RATE_LIMIT_PAUSE_S if limited else 0.0)
    return (Retryable if any(retryable for retryable, _ in known) else Permanent)(message, pause_s)


def _known(result: _Result) -> tuple[bool, str]:
    if result.token:
        return False, f"Signal wants a captcha solved: `signal-cli submitRateLimitChallenge --challenge {result.token}`"
    return _TYPES.get(result.type, (True, result.type))
