"""A small trading program for tests: a pid file, and a live signal that it writes again every `--every` seconds.

toy_executor.py --pid-file F --starts F --signal F [--every S]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    parser = argparse.ArgumentParser()
    for name in ("--pid-file", "--starts", "--signal"):
        parser.add_argument(name, required=True)
    parser.add_argument("--every", type=float, default=0.2)
    options = parser.parse_args()
    with open(options.starts, "a") as starts:
        starts.write(f"{os.getpid()}\n")
    pid_file = options.pid_file
    while True:
        write(options.signal, json.dumps({"signal": "BUY", "symbol": "BTC/USDT", "updated_at": time.time()}))
        if pid_file:
            write(pid_file, f"{os.getpid()}\n")
            pid_file = ""
        time.sleep(options.every)


def write(path: str, text: str) -> None:
    beside = Path(f"{path}.{os.getpid()}")
    beside.write_text(text)
    beside.rename(path)


if __name__ == "__main__":
    main()
