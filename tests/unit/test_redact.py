"""Secrets are taken out of text, command lines and environments; what is none stays."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import redact

S = "hunter2hunter2"
HEX = "0123456789abcdef0123456789abcdef"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"  # not a real one
TEXTS = [
    (f"--password {S}", S),
    (f"--password={S}", S),
    (f"--db-password '{S} {S}'", S),
    (f'--pass "{S}"', S),
    (f"--api-key {S}", S),
    (f"--apiKey={S}", S),
    (f"-token {S}", S),
    (f"DB_PASSWORD={S} ./run", S),
    (f"export AWS_SECRET_ACCESS_KEY={S}", S),
    (f"STRIPE_KEY={S}", S),
    (f"password: {S}", S),
    (f'{{"password": "{S}", "user": "bob"}}', S),
    (f"{{'clientSecret': '{S}'}}", S),
    (f"{{'client_secret' => '{S}'}}", S),
    (f"postgres://bob:{S}@db.example/x", S),
    (f"redis://:{S}@localhost:6379/0", S),
    (f"https://bob:p@{S}@host/", S),
    (f"https://{S}{S}@github.example/x.git", S),
    (f"https://host/x?token={S}&y=1", S),
    (f"https://host/x?a=1&api_key={S}", S),
    (f"Authorization: Bearer {S}", S),
    (f"Authorization: Basic {S}==", S),
    (f"-H 'authorization: token {S}'", S),
    (f"X-Api-Key: {S}", S),
    (f"Cookie: sid={S}; other={S}", S),
    (f"sent Bearer {S} to it", S),
    (JWT, JWT),
    (f"got {JWT} back", "dozjgNryP4J3"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "abcdefghij"),
    ("github_pat_11AAAAAAA0123456789_abcdefghij", "abcdefghij"),
    ("xoxb-123456789012-abcdefghijkl", "abcdefghijkl"),
    ("sk-proj-abcdefghijklmnopqrst1234", "abcdefghij"),
    ("sk_live_abcdefghijklmnopqrst1234", "abcdefghij"),
    (f"the token is {HEX}", HEX),
    (f"secret {HEX}", HEX),
    (f"password was changed to ({HEX})", HEX),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----", "MIIEow"),
    ("-----BEGIN PRIVATE KEY-----\nMIIEow, and the end is missing", "MIIEow"),
    (f"https://hooks.slack.com/services/T000/B000/{S}", S),
]
PLAIN = [
    "python3 /opt/augur/augur_live_v4.py --symbol BTC/USDT --every 5",
    "--tokenizer bert --authors bob --passes 3",
    "PWD=/srv/app PATH=/usr/bin:/bin HOME=/srv",
    "http://127.0.0.1:18789/healthz",
    "ssh bob@host.example -p 22 -i ~/.ssh/id_ed25519",
    "commit 0123456789abcdef0123456789abcdef01234567",
    "git clone https://github.example/a/b.git",
    "exit 3: cannot open /var/log/x.log: Permission denied",
    "monkey=1 turkey=2 keyboard=us",
]


@pytest.mark.req("FR-006", "NFR-003")
@pytest.mark.parametrize(("given", "secret"), TEXTS)
def test_a_secret_is_taken_out_of_text_and_taking_it_out_twice_is_the_same(given: str, secret: str) -> None:
    once = redact.text(given)
    assert secret not in once
    assert redact.HIDDEN in once
    assert redact.text(once) == once


@pytest.mark.parametrize("given", PLAIN)
def test_what_is_no_secret_stays(given: str) -> None:
    assert redact.text(given) == given
    assert " ".join(redact.words(given.split())) == given


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("x", "--password", "two words"), ("x", "--password", "[redacted]")),
        (("x", "--password=two words"), ("x", "--password=[redacted]")),
        (("env", "API_TOKEN=a b", "x"), ("env", "API_TOKEN=[redacted]", "x")),
        (("/usr/bin/curl", "-u", "bob:pw", "http://h/"), ("/usr/bin/curl", "-u", "bob:[redacted]", "http://h/")),
        (("curl", "-H", "Authorization: x y"), ("curl", "-H", "Authorization: [redacted]")),
        (("sudo", "mysql", "-u", "bob", "-ppw", "db"), ("sudo", "mysql", "-u", "bob", "-p[redacted]", "db")),
        (("sshpass", "-p", "pw", "ssh", "h"), ("sshpass", "-p", "[redacted]", "ssh", "h")),
        (("sshpass", "-ppw", "ssh", "h"), ("sshpass", "-p[redacted]", "ssh", "h")),
        (("redis-cli", "-a", "pw", "ping"), ("redis-cli", "-a", "[redacted]", "ping")),
        (("docker", "login", "-u", "b", "-p", "pw"), ("docker", "login", "-u", "b", "-p", "[redacted]")),
        (("ssh", "-p", "22", "h"), ("ssh", "-p", "22", "h")),
        (("mysql", "-p", "db"), ("mysql", "-p", "db")),
        ((), ()),
    ],
)
def test_a_command_line_keeps_its_words(argv: tuple[str, ...], shown: tuple[str, ...]) -> None:
    assert redact.words(argv) == shown


def test_an_environment_loses_the_values_of_what_is_named_a_secret() -> None:
    env = {"DB_PASSWORD": "a b", "PWD": "/srv", "HOME": "/srv", "URL": "http://u:pw@h/", "SSH_AUTH_SOCK": "/s", "X": ""}
    assert redact.environment(env) == {
        "DB_PASSWORD": "[redacted]", "PWD": "/srv", "HOME": "/srv", "URL": "http://u:[redacted]@h/",
        "SSH_AUTH_SOCK": "/s", "X": "",
    }  # fmt: skip


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_any_text_can_be_given_and_nothing_is_hidden_twice(given: str) -> None:
    once = redact.text(given)
    assert redact.text(once) == once


@pytest.mark.parametrize(
    "piece", ["a_", "password", "password=", "http://a:", "key ", "-----BEGIN ", "eyJ", '="', "a:"]
)
def test_a_long_text_takes_no_time_worth_speaking_of(piece: str) -> None:
    began_s = time.process_time()
    out = redact.text(piece * (redact.TEXT_CHARS_MAX // len(piece) + 1))
    assert "left out" in out
    assert time.process_time() - began_s < 5
