"""R15: what an agent may do by itself, what it may ask for, and the code that makes a person's word of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from supervisor.errors import HealError, NeedsConfirm, Refused, UnknownId
from supervisor.incidents import events as e
from supervisor.incidents.agents import OPEN_MAX, VALID_S
from supervisor.incidents.codes import WRONG_MAX, WRONG_WINDOW_S
from supervisor.incidents.model import Mode, State
from supervisor.incidents.policy import Policy
from tests.lab.engine import Lab, service

AGENT = "agent:openclaw"
RESTART = {"runbook_id": "rb-restart-service", "target_id": "web"}


def lab_of(**policy: Any) -> Lab:
    return Lab(targets=(service("web", auto_restart=False),), policy=Policy(**policy))


def order(lab: Lab, action: str, actor: str = AGENT, token: str = "", **args: Any) -> dict[str, Any]:
    """The answer's body. Raises its error."""
    token = token or f"t{len(lab.records)}.{len(lab.answers)}"
    lab.feed(e.Order(token, action, msgspec.json.encode(args), actor, f"secret {token}"))
    answer = lab.answers.get(token)
    if answer is None:
        return {}
    if answer.error is not None:
        raise answer.error
    assert answer.body is not None
    return answer.body


def code(lab: Lab) -> str:
    (request,) = order(lab, "requests", actor="anna")["requests"]
    return str(request["code"])


@pytest.mark.req("R15")
def test_an_agents_approval_waits_for_a_persons_code() -> None:
    lab = lab_of(pages=True)
    lab.kill("web")
    answer = order(lab, "approve", **RESTART)
    assert (answer["success"], answer["pending"]) == (False, True)
    assert lab.dispatched == []
    secret = code(lab)
    assert secret not in msgspec.json.encode(answer).decode()
    assert secret not in msgspec.json.encode(order(lab, "status")).decode(), "an agent reads the status"
    assert all(secret not in row.body for row in lab.messages("synapse")), "and Synapse"
    assert [row.body for row in lab.messages("signal") if row.kind == "request" and secret in row.body]
    confirmed = order(lab, "confirm", actor="anna", code=secret.lower())
    assert confirmed["mode"] == Mode.AUTO_EXECUTE
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R15")
def test_a_code_is_good_once() -> None:
    lab = lab_of()
    order(lab, "approve", **RESTART)
    secret = code(lab)
    order(lab, "confirm", actor="anna", code=secret)
    with pytest.raises(UnknownId):
        order(lab, "confirm", actor="anna", code=secret)


@pytest.mark.req("R15")
def test_an_execution_that_was_asked_for_runs_once_under_a_persons_name() -> None:
    lab = lab_of()
    with pytest.raises(NeedsConfirm):
        order(lab, "execute", **RESTART)
    order(lab, "execute", confirm=True, **RESTART)
    secret = code(lab)
    lab.hold_dispatch = True
    for _ in range(2):
        order(lab, "confirm", actor="anna", token="same", code=secret)
    assert len(lab.dispatched) == 1


@pytest.mark.req("R15")
def test_a_code_expires_and_does_not_outlive_another_version_of_its_runbook() -> None:
    lab = lab_of()
    order(lab, "approve", **RESTART)
    old = code(lab)
    lab.crash()
    assert code(lab) == old, "a request survives a crash"
    lab.advance(VALID_S + 1)
    with pytest.raises(UnknownId):
        order(lab, "confirm", actor="anna", code=old)
    order(lab, "approve", **RESTART)
    world = lab.engine.world
    world.runbooks["rb-restart-service"] = msgspec.structs.replace(world.runbooks["rb-restart-service"], label="else")
    with pytest.raises(Refused, match="changed"):
        order(lab, "confirm", actor="anna", code=code(lab))
    assert order(lab, "requests", actor="anna")["requests"] == []
    assert world.runbook_states == {}


@pytest.mark.req("R15")
def test_codes_cannot_be_guessed_for_long() -> None:
    lab = lab_of()
    order(lab, "approve", **RESTART)
    secret = code(lab)
    for _ in range(WRONG_MAX):
        with pytest.raises(UnknownId):
            order(lab, "confirm", actor="anna", code="AAAAAA")
    with pytest.raises(Refused, match="wrong codes"):
        order(lab, "confirm", actor="anna", code=secret)
    lab.advance(WRONG_WINDOW_S + 1)
    assert order(lab, "confirm", actor="anna", code=secret)["success"] is True


@pytest.mark.req("R15")
def test_the_same_wish_twice_is_one_request_and_many_are_bounded() -> None:
    lab = Lab(targets=tuple(service(f"s{n}") for n in range(OPEN_MAX + 1)))
    first = order(lab, "approve", runbook_id="rb-restart-service", target_id="s0")
    again = order(lab, "approve", runbook_id="rb-restart-service", target_id="s0")
    assert first["request_id"] == again["request_id"]
    for n in range(1, OPEN_MAX):
        order(lab, "approve", runbook_id="rb-restart-service", target_id=f"s{n}")
    with pytest.raises(Refused, match="wait for a person"):
        order(lab, "approve", runbook_id="rb-restart-service", target_id=f"s{OPEN_MAX}")


@pytest.mark.req("R15")
@pytest.mark.parametrize(
    ("action", "args"),
    [
        ("pause", {"all": True}),
        ("resume", {"all": True}),
        ("undo", {"execution_id": "exe_1"}),
        ("ack", {"incident_id": "inc_1"}),
        ("confirm", {"code": "AAAAAA"}),
        ("requests", {}),
    ],
)
def test_what_is_a_persons_alone_is_refused_to_an_agent(action: str, args: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="a person's"):
        order(lab_of(), action, **args)


@pytest.mark.req("R15", "FR-007")
def test_an_agent_reads_and_dismisses_by_itself_and_is_told_what_is_wrong_at_once() -> None:
    lab = lab_of()
    lab.kill("web")
    assert order(lab, "list_runbooks")["runbooks"]
    with pytest.raises(UnknownId):
        order(lab, "approve", runbook_id="no-such")
    with pytest.raises(HealError):
        order(lab, "approve", runbook_id=["rb"])
    answer = order(lab, "dismiss", incident_id=lab.only("web").id, reason="planned")
    assert answer["success"] is True


@pytest.mark.req("R15")
def test_a_trusted_agent_orders_like_a_person() -> None:
    lab = lab_of(agents_trusted=True)
    lab.kill("web")
    assert order(lab, "approve", **RESTART)["mode"] == Mode.AUTO_EXECUTE
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R15")
def test_a_code_is_spent_only_by_what_is_carried_out() -> None:
    lab = lab_of()
    order(lab, "execute", confirm=True, **RESTART)
    secret = code(lab)
    order(lab, "pause", actor="anna", target_id="web")
    with pytest.raises(Refused):
        order(lab, "confirm", actor="anna", code=secret)
    order(lab, "resume", actor="anna", target_id="web")
    order(lab, "confirm", actor="anna", token="again", code=secret)
    assert len(lab.dispatched) == 1


@pytest.mark.req("R15")
def test_a_wish_to_take_an_approval_back_is_told_as_that() -> None:
    lab = lab_of()
    order(lab, "approve", revoke=True, **RESTART)
    (request,) = order(lab, "requests", actor="anna")["requests"]
    assert request["what"] == "take back the approval of rb-restart-service for web"
