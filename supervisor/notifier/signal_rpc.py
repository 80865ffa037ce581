"""signal-cli's JSON-RPC, read and written: pure, no connection.

Errors come inside HTTP 200, and a partial failure is a *result*: only an answer in which every recipient's type is
SUCCESS means that a message was sent. Codes and shapes are those of signal-cli 0.13 (man signal-cli-jsonrpc).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from supervisor.notifier.channel import DeliveryError, Permanent, Retryable, quote

RATE_LIMIT_PAUSE_S = 30.0
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
    -5: (True, "Signal limits the rate of this account"),
    -6: (False, "Signal wants a captcha solved: `signal-cli submitRateLimitChallenge`"),
}
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


class NotEveryone(DeliveryError):
    """Some were reached: only `missing` are to be tried again, or everybody else gets a copy each time."""

    def __init__(self, cause: DeliveryError, missing: tuple[str, ...]) -> None:
        super().__init__(str(cause), cause.pause_s)
        self.cause = cause
        self.missing = missing


def address(recipient: str) -> dict[str, Any]:
    """The parameter of `send` for "+E164", "group:ID" or "username:x". Raises Permanent with what to configure."""
    if not recipient:
        raise Permanent('nobody to send to: set notify.signal.recipient ("+15551234567", "group:ID" or "username:x")')
    match = _RECIPIENT.fullmatch(recipient)
    if match is None:
        raise Permanent(
            f'notify.signal.recipient is {recipient!r}; expected "+15551234567", "group:ID" or "username:x"'
        )
    if match["number"]:
        return {"recipient": [match["number"]]}
    return {"groupId": match["group"]} if match["group"] else {"username": match["username"]}


def request(request_id: str, account: str, to: dict[str, Any], text: str) -> bytes:
    """The body of POST /api/v1/rpc. Without `account` the daemon must serve a single one."""
    params = {**({"account": account} if account else {}), **to, "message": text}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "method": "send", "params": params})


def read(url: str, request_id: str, body: bytes) -> int:
    """The timestamp by which Signal knows the message. Raises Retryable, Permanent or NotEveryone."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Permanent(f"{url} answered something that is not signal-cli's JSON-RPC ({quote(body)})") from None
    if answer.error is not None:
        raise _refusal(url, answer.error)
    if answer.id != request_id or answer.result is None:
        raise Retryable(f"{url} answered another question than ours ({quote(body)})")
    if not answer.result.results or answer.result.timestamp is None:
        raise Retryable(f"{url} does not say that anybody was reached ({quote(body)})")
    _check(url, answer.result.results)
    return answer.result.timestamp


def _refusal(url: str, error: _Error) -> DeliveryError:
    results = error.data.response.results if error.data and error.data.response else ()
    if any(result.type != "SUCCESS" for result in results):
        return _failure(url, results)
    retryable, words = _CODES.get(error.code, (True, "it answered an error that healctl does not know"))
    message = f"signal-cli at {url}: {words} (error {error.code}: {quote(error.message.encode())})"
    if retryable:
        return Retryable(message, RATE_LIMIT_PAUSE_S if error.code == -5 else 0.0)
    return Permanent(message)


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
    known = [_TYPES.get(result.type, (True, result.type)) for result in failed]
    names = [
        f"{result.who or 'somebody'}: {words} ({result.type})"
        for result, (_, words) in zip(failed[:NAMED_MAX], known, strict=False)
    ]
    more = f" and {len(failed) - NAMED_MAX} more" if len(failed) > NAMED_MAX else ""
    reached = len(results) - len(failed)
    message = f"signal-cli at {url} reached {reached} of {len(results)}, not {'; '.join(names)}{more}"
    if not any(retryable for retryable, _ in known):
        return Permanent(message)
    limited = any(result.type == "RATE_LIMIT_FAILURE" for result in failed)
    return Retryable(message, RATE_LIMIT_PAUSE_S if limited else 0.0)
