"""Reading signal-cli's answers: nothing but a success for everybody is ever a success."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.notifier import signal_cli, signal_rpc, ways
from supervisor.notifier.channel import DeliveryError, Permanent, Retryable
from supervisor.notifier.rehearsal import result
from tests.doubles.notifier_lab import row
from tests.doubles.openclaw_double import recorded

URL = "http://127.0.0.1:8080"


def _read(answer: object) -> str:
    return signal_rpc.read(URL, "q1", msgspec.json.encode(answer))


def _error(code: int, message: str = "words", data: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message, "data": data}, "id": "q1"}


def _results(*kinds: str) -> dict[str, Any]:
    results = [result(f"+1555010{n}", kind) for n, kind in enumerate(kinds)]
    return {"jsonrpc": "2.0", "result": {"timestamp": 1700, "results": results}, "id": "q1"}


@pytest.mark.req("FR-005")
def test_success_for_everybody_is_a_receipt() -> None:
    assert _read(_results("SUCCESS")) == "1700"
    assert _read(_results("SUCCESS", "SUCCESS")) == "1700"


@pytest.mark.req("FR-005", "AC-011")
@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (-32700, Permanent, "did not understand"),
        (-32600, Permanent, "did not accept"),
        (-32601, Permanent, "is it signal-cli"),
        (-32602, Permanent, "notify.signal.account"),
        (-32603, Retryable, "inside"),
        (-1, Permanent, "refused"),
        (-3, Retryable, "could not reach"),
        (-4, Permanent, "safety number"),
        (-5, Retryable, "rate"),
        (-6, Permanent, "captcha"),
        (-77, Retryable, "does not know"),
    ],
)
def test_an_error_inside_http_200_is_never_sent(code: int, kind: type[DeliveryError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        _read(_error(code))
    assert f"error {code}: words" in str(caught.value)
    assert (caught.value.pause_s > 0) is (code == -5)


@pytest.mark.req("FR-005")
def test_a_partial_failure_names_who_was_not_reached() -> None:
    with pytest.raises(signal_rpc.NotEveryone) as caught:
        _read(_results("SUCCESS", "UNREGISTERED_FAILURE", "NETWORK_FAILURE"))
    error = caught.value
    assert error.missing == ("+15550101", "+15550102")
    assert isinstance(error.cause, Retryable)
    assert "reached 1 of 3, not +15550101: not registered with Signal" in str(error)
    assert "+15550102: the network failed (NETWORK_FAILURE)" in str(error)


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        (("UNREGISTERED_FAILURE",), Permanent),
        (("IDENTITY_FAILURE", "UNREGISTERED_FAILURE"), Permanent),
        (("NETWORK_FAILURE",), Retryable),
        (("RATE_LIMIT_FAILURE",), Retryable),
        (("INVALID_PRE_KEY_FAILURE",), Retryable),
        (("A_TYPE_OF_TOMORROW",), Retryable),
        (("UNREGISTERED_FAILURE", "NETWORK_FAILURE"), Retryable),
    ],
)
def test_nobody_reached(kinds: tuple[str, ...], kind: type[DeliveryError]) -> None:
    with pytest.raises(kind, match=f"reached 0 of {len(kinds)}"):
        _read(_results(*kinds))
    with pytest.raises(kind, match=f"reached 0 of {len(kinds)}"):  # the same inside an error, as signal-cli does it
        _read(_error(-1, data={"response": _results(*kinds)["result"]}))


def test_many_failures_make_one_short_error() -> None:
    with pytest.raises(DeliveryError, match="and 35 more") as caught:
        _read(_results(*["UNREGISTERED_FAILURE"] * 40))
    assert len(str(caught.value)) <= 500


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    "answer",
    [
        {},
        None,
        [],
        "ok",
        {"jsonrpc": "2.0", "id": "q1"},
        {"jsonrpc": "2.0", "id": "q1", "result": None},
        {"jsonrpc": "2.0", "id": "q1", "result": {}},
        {"jsonrpc": "2.0", "id": "q1", "result": {"timestamp": 5}},
        {"jsonrpc": "2.0", "id": "q1", "result": {"timestamp": 5, "results": []}},
        {"jsonrpc": "2.0", "id": "q1", "result": {"results": [result("+15550100", "SUCCESS")]}},
        {"jsonrpc": "2.0", "id": "other", "result": {"timestamp": 5, "results": [result("+15550100", "SUCCESS")]}},
        {"jsonrpc": "2.0", "id": "q1", "result": {"timestamp": 5, "results": [{"recipientAddress": None}]}},
        {"jsonrpc": "2.0", "id": "q1", "result": {"timestamp": 5, "results": "SUCCESS"}},
        {"jsonrpc": "2.0", "id": "q1", "error": "broken"},
        {"status": "ok"},
    ],
)
def test_an_answer_of_another_shape_is_never_sent(answer: object) -> None:
    with pytest.raises(DeliveryError, match=URL):
        _read(answer)


KEYS = st.sampled_from(["id", "result", "error", "code", "data", "results", "type", "timestamp"])
ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers(-40_000, 40_000) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@given(st.binary(max_size=300) | ANSWERS.map(msgspec.json.encode))
def test_whatever_comes_is_an_error_of_ours(raw: bytes) -> None:
    with pytest.raises(DeliveryError):
        signal_rpc.read(URL, "q1", raw)


@pytest.mark.req("FR-005")
def test_recipients() -> None:
    forms = {
        "+15551234567": ({"recipient": ["+15551234567"]}, ("+15551234567",), "+15551234567"),
        "group:abc=": ({"groupId": "abc="}, ("-g", "abc="), "group:abc="),
        "username:x.01": ({"username": "x.01"}, ("-u", "x.01"), "username:x.01"),
    }
    for configured, (params, arguments, target) in forms.items():
        to = signal_rpc.address(configured)
        assert (to.params(), to.arguments(), to.target()) == (params, arguments, target)
    missed = signal_rpc.To(people=("9f1c-uuid",))
    assert (missed.params(), missed.target()) == ({"recipient": ["9f1c-uuid"]}, "uuid:9f1c-uuid")
    with pytest.raises(Retryable, match="2 were missed"):
        signal_rpc.To(people=("+15551234567", "+15551234568")).target()
    for wrong in ("", "15551234567", "+1", "group:", "group:a b", "username:", "+1555123456a", "+15551234567\n"):
        with pytest.raises(Permanent, match=r"notify\.signal\.recipient"):
            signal_rpc.address(wrong)


def test_account_is_left_out_when_unset() -> None:
    assert b"account" not in signal_rpc.request("1", "", signal_rpc.To(people=("+15551234567",)), "x")


@pytest.mark.req("FR-005")
def test_a_captcha_and_a_told_pause_are_passed_on() -> None:
    captcha = {**result("+15550101", "RATE_LIMIT_FAILURE"), "token": "tok-1", "retryAfterSeconds": 86400}
    with pytest.raises(Permanent, match=r"captcha solved.*--challenge tok-1") as caught:
        _read(_error(-5, data={"response": {"timestamp": 1, "results": [captcha]}}))
    assert caught.value.pause_s == 86400
    limited = {**result("+15550101", "RATE_LIMIT_FAILURE"), "retryAfterSeconds": 12}
    with pytest.raises(Retryable, match="limits the rate") as told:
        _read(_error(-5, data={"response": {"timestamp": 1, "results": [limited]}}))
    assert told.value.pause_s == 12


def _printed(*kinds: str) -> bytes:
    return msgspec.json.encode(_results(*kinds)["result"]) + b"\n"


@pytest.mark.req("FR-005", "AC-011")
def test_what_signal_cli_prints_is_a_receipt_only_when_everybody_was_reached() -> None:
    assert signal_rpc.read_one_shot("signal-cli", 0, _printed("SUCCESS"), b"INFO chatter") == "1700"
    for code, stdout, stderr, kind, words in (
        (0, b"", b"", Retryable, "does not say that anybody was reached"),
        (0, b"1700\n", b"", Retryable, "does not say that anybody was reached"),
        (1, b"", b"User +15550100 is not registered.", Permanent, r"notify\.signal\.account"),
        (1, b"", b"Failed to parse", Permanent, "refused the message"),
        (2, b"", b"java.lang.Error", Retryable, "failed inside"),
        (3, b"", b"Failed to send", Retryable, "could not reach Signal"),
        (4, b"", b"", Permanent, "safety number"),
        (5, b"", b"", Retryable, "limits the rate"),
        (6, b"", b"", Permanent, "captcha"),
        (-9, b"", b"", Retryable, "does not know"),
        (1, _printed("UNREGISTERED_FAILURE"), b"", Permanent, "not registered with Signal"),
    ):
        with pytest.raises(kind, match=words):
            signal_rpc.read_one_shot("signal-cli", code, stdout, stderr)
    with pytest.raises(signal_rpc.NotEveryone) as partial:
        signal_rpc.read_one_shot("signal-cli", 0, _printed("SUCCESS", "NETWORK_FAILURE"), b"")
    assert partial.value.missing == ("+15550101",)


@pytest.mark.req("FR-005", "AC-011")
def test_what_openclaw_prints_is_a_receipt_only_with_the_message_s_name() -> None:
    sent = {"channel": "signal", "payload": {"ok": True, "result": {"messageId": "1700", "timestamp": 1700}}}
    read = signal_rpc.read_openclaw
    assert read("openclaw", 0, recorded("message-sent.json"), b"") == "1795644947140"
    with pytest.raises(Permanent, match=r"safety number.*error -4"):
        read("openclaw", 1, recorded("message-untrusted.json"), b"")
    with pytest.raises(Permanent, match="refused the message"):
        read("openclaw", 1, recorded("message-unregistered.json"), b"")
    assert read("openclaw", 0, b"[plugins] chatter\n" + msgspec.json.encode(sent), b"") == "1700"
    assert read("openclaw", 0, msgspec.json.encode({**sent, "deliveryStatus": {"status": "sent"}}), b"") == "1700"
    for code, answer, kind, words in (
        (1, sent, Retryable, "exit code 1"),
        (0, {}, Retryable, "does not say that anybody was reached"),
        (0, "text", Retryable, "did not send"),
        (0, {**sent, "dryRun": True}, Retryable, "did not send"),
        (0, {**sent, "deliveryStatus": "suppressed"}, Retryable, "did not send"),
        (0, {**sent, "deliveryStatus": {"status": "partial_failed"}}, Retryable, "did not send"),
        (1, {"ok": False, "error": {"type": "cli_error", "message": "Channel is unavailable: signal"}}, Retryable,
         "Channel is unavailable"),
        (1, {"ok": False, "error": "Untrusted identity"}, Permanent, "safety number"),
        (1, {"ok": False, "error": "[413] Rate limit exceeded"}, Retryable, "limits the rate"),
        (1, {"ok": False, "error": "CAPTCHA proof required"}, Permanent, "captcha"),
        (1, {"ok": False, "error": "Unregistered user"}, Permanent, "not registered with Signal"),
        (1, {"ok": False, "error": "Specified account does not exist"}, Permanent, r"notify\.signal\.account"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            read("openclaw", code, msgspec.json.encode(answer), b"")


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    ("line", "yes"),
    [
        ("java -cp lib/signal-cli.jar org.asamk.signal.Main daemon --http 127.0.0.1:8080", True),
        ("signal-cli -a +15550100 daemon --http 127.0.0.1:8080", True),
        ("/usr/bin/signal-cli --account=+15550100 daemon", True),
        ("signal-cli -a +15550199 daemon", False),
        ("signal-cli --config /elsewhere daemon", False),
        ("signal-cli --config /data daemon", True),
        ("signal-cli -a +15550100 --config /elsewhere jsonRpc", True),
        ("signal-cli -a +15550100 send -m x +15550101", False),
        ("vim daemon", False),
    ],
)
def test_whose_account_a_daemon_holds(line: str, yes: bool) -> None:
    assert ways.serves(tuple(line.split()), "+15550100", "/data") is yes


def test_text() -> None:
    one = row("r1")
    assert signal_cli.message_text(one) == "subject r1\n\nbody of r1"
    assert signal_cli.message_text(msgspec.structs.replace(one, body="subject r1: more")) == "subject r1: more"
    assert signal_cli.message_text(msgspec.structs.replace(one, subject="")) == "body of r1"
    long = signal_cli.message_text(msgspec.structs.replace(one, body="ä" * 9_000))
    assert len(long) == signal_cli.TEXT_CHARS_MAX
    assert long.endswith("has the rest)")
