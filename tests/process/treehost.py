"""A root process for tests: `python -m tests.process.treehost STATE RUNTIME SPEC` where SPEC is JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from supervisor.config import Config, Duration, HealctlSection, TreeSection
from supervisor.errors import HealError
from supervisor.tree import lock
from supervisor.tree.detach import detach
from supervisor.tree.output import Output
from supervisor.tree.root import Root
from supervisor.tree.spec import tree_of
from supervisor.units import LogFormat
from tests.process.toys import tell


def main() -> int:
    state_dir, runtime_dir, what = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    times = {key: value if key.endswith("intensity") else Duration(value) for key, value in what["tree"].items()}
    section = TreeSection(**times)
    config = Config(tree=section, healctl=HealctlSection(log_format=LogFormat.TEXT))
    workers = [(name, factory, group) for name, factory, group in what["workers"]]

    def page(text: str) -> None:
        tell(runtime_dir, what="page", child="pager", pid=os.getpid(), text=text)

    def ready() -> None:
        tell(runtime_dir, what="all_ready", child="root", pid=os.getpid())

    tree = tree_of(section, workers, listener=what["listener"])

    def serve(output: Output, on_ready: Callable[[], None]) -> tuple[int, str]:
        with lock.acquire(runtime_dir):
            root = Root(tree, config, state_dir, runtime_dir, output=output, page=page, on_ready=on_ready)
            return root.run(), root.exit_reason

    try:
        if what["detach"]:
            return detach(serve, state_dir / "healctl.log")
        return serve(Output(2), ready)[0]
    except HealError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
