"""An environment in which healctl and a plugin are installed: the plugin by pip, offline, as its owner would."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.lab.daemon import ROOT

TEMPLATE = ROOT / "etc/plugin-template"
SCRIPT = "import sys\nfrom supervisor.cli.main import main\nsys.exit(main())\n"


class Environment:
    """A venv that sees what is installed in ours, and has what is put into it besides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
        self.python = folder / "bin/python"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        ours = sysconfig.get_path("purelib")
        (self.packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        self.healctl = folder / "bin/healctl"
        self.healctl.write_text(f"#!{self.python}\n{SCRIPT}")
        self.healctl.chmod(0o755)

    def install(self, source: Path) -> None:
        """`pip install` of a copy of this folder."""
        copy = self.folder / "src" / source.name
        shutil.copytree(source, copy)
        argv = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-index"]
        argv += ["--no-build-isolation", "--no-deps", "--disable-pip-version-check", str(copy)]
        subprocess.run(argv, check=True, timeout=120)

    def put(self, distribution: str, code: str, entries: str, version: str = "1.0") -> None:
        """A distribution of one module, as an installer leaves it: the module, its metadata, its entry points."""
        name = distribution.replace("-", "_")
        (self.packages / f"{name}.py").write_text(code)
        info = self.packages / f"{name}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entries)
