"""What the documents show is so: each `$ healctl` line of a console block runs, with the exit code that it promises.

One daemon, with a service that has died and waits for its owner, goes through all documents in order. Ids that they
show stand for the real ones. What starts or stops a daemon, or belongs into a shell's files, is in `sh` blocks, and is
not run.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli.main import COMMANDS
from tests.lab.daemon import HEALCTL, ROOT, Daemon, Site, site, until

pytestmark = pytest.mark.req("FR-007")

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INCIDENT, EXECUTION = "inc_7d029917fc81", "exe_3f2a91c0d4e7"
_LINE = re.compile(r"^\$ (?P<command>.+?)(?:\s{2,}# *(?P<note>.*))?$")


def shown(document: Path) -> list[tuple[str, set[int]]]:
    """(command, the exit codes that it may have), in order; `# exit 0|1` behind a command says which."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if (match := _LINE.match(line)) is not None:
                codes = re.match(r"exit ([\d|]+)", match["note"] or "")
                found.append((match["command"], {int(code) for code in codes[1].split("|")} if codes else {0}))
    return found


class Story:
    """web is dead and not to be started by itself: its incident waits."""

    def __init__(self, made: Site) -> None:
        self.web = made.service("web")
        self.web.start()
        runbooks = made.folder / "runbooks.d"
        runbooks.mkdir(mode=0o700)
        example = (ROOT / "docs/runbooks.md").read_text()
        runbook, command = re.findall(r"^```toml\n(.*?)^```", example, re.DOTALL | re.MULTILINE)[:2]
        (runbooks / "cache.toml").write_text(runbook)
        (runbooks / "cache.toml").chmod(0o600)
        self.daemon: Daemon = made.daemon(self.web.toml(auto_restart=False) + command)
        self.daemon.start()
        self.daemon.wait_known(self.web)
        self.incident = self.execution = ""
        self.die()

    def die(self) -> None:
        """The service ends, and the incident about it waits for its owner."""
        self.web.kill()
        count = len([row for row in self.daemon.incidents("web") if row["state"] == "escalated"])
        self.incident = self.daemon.wait_state("web", "escalated", count + 1)[-1]["id"]

    def prepare(self, command: str) -> None:
        """Each of several answers to one incident begins with it open, and with nothing approved."""
        if re.search("heal (approve|execute) rb-restart|heal dismiss", command) and "--revoke" not in command:
            until("nothing is under way", lambda: {it["state"] for it in self.daemon.open_incidents()} <= {"escalated"})
            self.daemon.ask("approve", runbook_id="rb-restart-service", target_id="web", revoke=True)
            if self.web.ref() is not None:
                self.die()

    def run(self, command: str) -> tuple[int, str]:
        text = command.replace(INCIDENT, self.incident).replace(EXECUTION, self.execution)
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.daemon.folder,
            env={
                **os.environ,
                "PATH": f"{HEALCTL.parent}:{os.environ['PATH']}",
                "HEALCTL_CONFIG": str(self.daemon.config_file),
                "HOME": str(self.daemon.folder),
            },
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=90, check=False,
        )  # fmt: skip
        self.execution = (re.findall(r'"execution_id":"(exe_\w+)"', done.stdout) or [self.execution])[-1]
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with site() as made:
        yield Story(made)


def test_every_shown_command_is_one_of_ours() -> None:
    lines = [command for document in DOCUMENTS for command, _ in shown(document)]
    assert len(lines) > 20
    for command in lines:
        words = re.findall(r"healctl (?:-c \S+ )?([a-z]+)", command)
        assert words, command
        assert set(words) <= set(COMMANDS), command


@pytest.mark.parametrize("document", [it for it in DOCUMENTS if shown(it)], ids=lambda it: it.name)
def test_what_a_document_shows_runs(document: Path, story: Story) -> None:
    for command, codes in shown(document):
        story.prepare(command)
        code, said = story.run(command)
        assert code in codes, f"{document.name}: {command}\nexit {code}, shown is {sorted(codes)}\n{said}"
