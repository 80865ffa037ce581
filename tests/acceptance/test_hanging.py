"""Half of all targets hang at once, for real, and every reading still comes within 5 s (R9)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.acceptance.test_sharing import LISTENER, free_port, trading
from tests.lab.daemon import Site


@pytest.mark.req("R9", "FR-001")
def test_every_reading_comes_within_5_s_while_half_the_targets_hang(here: Site) -> None:
    """Hung for real: processes that are stopped behind their sockets, pipes in the place of files."""
    port, alive_port = free_port(), free_port()
    children = []
    for number in (port, alive_port):
        children.append(subprocess.Popen([sys.executable, "-c", LISTENER, str(number)], stdout=subprocess.PIPE))
        assert children[-1].stdout is not None
        assert children[-1].stdout.readline() == b"up\n"
    os.kill(children[0].pid, signal.SIGSTOP)
    toy = here.service("toy")
    toy.start()
    fifo = here.folder / "fifo"
    os.mkfifo(fifo)
    (here.folder / "small.log").write_text("a line\n")
    hung = {
        f"hung{n}": f'[process.hung{n}]\nendpoint = "http://127.0.0.1:{port}/"\ninterval = "1s"\n' for n in range(6)
    }
    hung["gate-hung"] = (
        f'[gateway.gate-hung]\nstatus = ["/bin/sleep", "100"]\nhealth_url = "http://127.0.0.1:{port}/healthz"\n'
    )
    hung["gate-slow"] = '[gateway.gate-slow]\nstatus = ["/bin/sleep", "100"]\n'
    hung["pipe-signals"] = f'[trading.pipe]\nsignal_file = "{fifo}"\ninterval = "1s"\n'
    hung["pipes"] = f'[logs.pipes]\npaths = ["{fifo}"]\ninterval = "1s"\n'
    hung["pipe-db"] = f'[database.pipe-db]\npath = "{fifo}"\ninterval = "1s"\n'
    hung["fleet:stopped"] = f'[fleet.hosts.stopped]\naddress = "127.0.0.1"\nport = {port}\n'
    well = {
        "toy": toy.toml(),
        "augur-signals": trading(here),
        "small": f'[logs.small]\npaths = ["{here.folder}/small.log"]\n',
    }
    well |= {
        f"api{n}": f'[process.api{n}]\nendpoint = "tcp://127.0.0.1:{alive_port}"\ninterval = "1s"\n' for n in range(6)
    }
    daemon = here.daemon("".join([*hung.values(), *well.values()]))
    try:
        daemon.start()

        def ask(target_id: str) -> dict[str, Any]:
            return daemon.ask("probe", 12.0, target_id=target_id)

        with ThreadPoolExecutor(32) as pool:
            names = [*hung, *well, "system-memory", "ledger"]
            for name, look in zip(names, pool.map(ask, names), strict=True):
                assert look["target_id"] == name
                assert look["took_ms"] <= 5000, look
                if name in well:
                    assert look["available"], "one that hangs delays no other"
    finally:
        for child in children:
            child.kill()
            child.communicate()
