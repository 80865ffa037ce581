"""What a gateway says of itself, by fields: the real OpenClaw's recorded answers, and what is not of their form."""

from __future__ import annotations

import msgspec
import pytest

from probes import selfreport
from supervisor.incidents.readings import Endpoint, Unavailable
from tests.doubles.openclaw_double import recorded

UP = recorded("status-up.json")


def changed(**fields: object) -> bytes:
    """The recorded answer of a gateway that is up, with other fields."""
    return msgspec.json.encode({**msgspec.json.decode(UP), **fields})


@pytest.mark.req("FR-001", "FR-002")
@pytest.mark.parametrize(
    ("name", "endpoint", "words"),
    [
        ("status-up.json", Endpoint.OK, ""),
        ("status-stopped.json", Endpoint.REFUSED, "port: free; rpc: connect ECONNREFUSED"),
        ("status-hung.json", Endpoint.TIMEOUT, "port: busy; rpc: timeout"),
    ],
)
def test_the_real_ones_status(name: str, endpoint: Endpoint, words: str) -> None:
    said = selfreport.status(recorded(name))
    assert said.endpoint is endpoint
    assert words in said.detail
    assert said.runtime == "unknown"


@pytest.mark.req("R9")
def test_a_gateway_that_turns_our_token_down_has_answered() -> None:
    with pytest.raises(selfreport.CannotTell, match="unauthorized") as caught:
        selfreport.status(recorded("status-token.json"))
    assert caught.value.reason is Unavailable.AUTHENTICATION


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    "rpc",
    [None, "ok", {}, {"ok": "true"}, {"ok": 1}, {"ok": None}, {"ok": True, "error": 7}, [True]],
)
def test_fields_of_another_type_are_a_bad_answer(rpc: object) -> None:
    said = selfreport.status(changed(rpc=rpc))
    assert said.endpoint is Endpoint.BAD_ANSWER
    assert "rpc" in said.detail


@pytest.mark.req("FR-002")
def test_words_decide_nothing() -> None:
    """ "not running" contains "running" (SITE.md)."""
    running = {"runtime": {"status": "running"}}
    down = {"ok": False, "error": "the gateway is running and healthy, rpc.ok: true"}
    said = selfreport.status(changed(service=running, rpc=down))
    assert (said.endpoint, said.runtime) == (Endpoint.BAD_ANSWER, "running")
    stopped = {"runtime": {"status": "stopped, not running"}}
    assert selfreport.status(changed(service=stopped)).endpoint is Endpoint.OK
    assert selfreport.status(changed(service=None, port=None)).endpoint is Endpoint.OK
    assert selfreport.status(changed(service={"runtime": {"status": 3}})).endpoint is Endpoint.BAD_ANSWER


@pytest.mark.req("FR-002")
def test_json_after_a_banner_between_log_lines() -> None:
    log = b'[doctor] {broken\n{"level":"warn","msg":"old config"}\n'
    for around in (log + UP, b"banner\n\n" + UP + b"\nbye {\n", UP.replace(b"\n", b""), b"\xff\xfe\n" + UP):
        assert selfreport.status(around).endpoint is Endpoint.OK
    other = selfreport.status(b'banner\n{"level":"error"}\n')
    assert other.endpoint is Endpoint.BAD_ANSWER


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    "stdout",
    [b"", b"gateway: running", b"[1, 2]", b"null", b"{" * 100_000, b"{\n" * 100_000, b"\xff\xfe", UP[:-20], b'"rpc"',
     b'{"a":' * 50_000],
)  # fmt: skip
def test_what_is_no_json_object_says_nothing_about_the_gateway(stdout: bytes) -> None:
    with pytest.raises(selfreport.CannotTell, match="no JSON object") as caught:
        selfreport.status(stdout)
    assert caught.value.reason is Unavailable.BAD_DATA
    assert len(str(caught.value)) < 400


@pytest.mark.req("FR-001")
@pytest.mark.parametrize(
    "body",
    [recorded("healthz.json"), recorded("readyz.json"), b'{"status":"live"}', b'{"ready":true,"failing":["x"]}',
     b'{"ok":true,"status":"starting"}'],
)  # fmt: skip
def test_good_health(body: bytes) -> None:
    assert selfreport.health(200, body).endpoint is Endpoint.OK
    assert selfreport.health(503, body).endpoint is Endpoint.BAD_ANSWER


@pytest.mark.req("FR-001", "FR-002")
@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (200, recorded("unknown-path.html"), "not the JSON of a health address"),
        (200, recorded("readyz-starting.json"), "ready is false: 'startup-sidecars'"),
        (503, recorded("readyz-starting.json"), "ready is false: 'startup-sidecars'"),
        (200, b'{"ok":false,"ready":false}', "ok, ready is false"),
        (200, b'{"ok":true,"ready":false}', "ready is false"),
        (200, b'{"ok":"true"}', "ok"),
        (200, b'{"ok":1}', "ok"),
        (200, b'{"ok":null}', "status 'None'"),
        (200, b'{"status":"not live"}', "status 'not live'"),
        (200, b"{}", "status"),
        (200, b"[true]", "not the JSON"),
        (200, b"", "not the JSON"),
        (200, b"\xff", "not the JSON"),
        (200, b"[" * 200_000, "not the JSON"),
        (404, b"not found", "status 404: 'not found'"),
    ],
)
def test_bad_health(code: int, body: bytes, words: str) -> None:
    said = selfreport.health(code, body)
    assert said.endpoint is Endpoint.BAD_ANSWER
    assert words in said.detail
    assert len(said.detail) < 1500
