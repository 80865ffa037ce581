"""The documents tell what is there: every command, key and exit code, and nothing that is not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest

import supervisor
from supervisor import config, errors
from supervisor.cli.main import COMMANDS, cli
from supervisor.config import Config, Tables
from supervisor.schema import Reader

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
NO_DEFAULT = {("process", "NAME", "restart"), ("fleet", "hosts")}


def example() -> dict[str, Any]:
    """etc/healctl.toml with every key uncommented, prose left out."""
    lines = (ROOT / "etc/healctl.toml").read_text().splitlines()
    return tomllib.loads("\n".join(re.sub(r"^# (?=[a-z_]+ = )", "", line) for line in lines))


def sections() -> list[tuple[tuple[str, ...], type[msgspec.Struct]]]:
    """Every table of the configuration: its path and its struct; NAME stands for a target's name."""
    found: list[tuple[tuple[str, ...], type[msgspec.Struct]]] = []
    for name, kind in get_type_hints(Tables).items():
        if get_origin(kind) is dict:
            found.append(((name, "NAME"), get_args(kind)[1]))
        elif name == "notify":
            found += [(("notify", n), k) for n, k in get_type_hints(kind).items()]
        else:
            found.append(((name,), kind))
    return found


@pytest.mark.parametrize(
    ("path", "kind"), sections(), ids=lambda value: ".".join(value) if type(value) is tuple else ""
)
def test_the_example_configuration_has_every_key_with_its_default(
    path: tuple[str, ...], kind: type[msgspec.Struct]
) -> None:
    table: Any = example()
    for part in path:
        table = table[part]
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    assert sorted(table) == sorted(fields)
    hints = get_type_hints(kind, include_extras=True)
    for name, field in fields.items():
        if (*path, name) in NO_DEFAULT or field.required:
            continue
        reader = Reader()
        value = reader.value(hints[field.name], table[name], (*path, name))
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        assert reader.problems == []
        assert value == default, f"etc/healctl.toml: {'.'.join(path)}.{name}"


def test_the_example_configuration_as_it_stands_is_refused_only_for_its_placeholders() -> None:
    text = (ROOT / "etc/healctl.toml").read_text()
    assert config.parse(re.sub(r"^(\[\w+\.NAME\])", r"# \1", text, flags=re.MULTILINE), "etc") == Config()


def commands() -> list[str]:
    heal = cli.get_command(click.Context(cli), "heal")
    assert isinstance(heal, click.Group)
    return [name for name in COMMANDS if name != "heal"] + [f"heal {name}" for name in heal.commands]


@pytest.mark.parametrize("command", commands())
def test_the_readme_names_every_command(command: str) -> None:
    assert f"`healctl {command}" in README.read_text()


def test_the_readme_names_no_command_that_is_not_there() -> None:
    named = set(re.findall(r"healctl ((?:heal )?[a-z_-]+)", README.read_text()))
    known = {*commands(), *(name.replace("_", "-") for name in commands()), "heal"}
    assert {name for name in named if name.split()[0] in {*COMMANDS, "heal"}} - known == set()
    in_code = set(re.findall(r"`healctl ([a-z_-]+)", README.read_text()))
    assert in_code - set(COMMANDS) == set()


def test_the_readme_names_every_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HealError)]
    text = README.read_text()
    for code in {0, *(kind.exit_code for kind in kinds)}:
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE), f"README: exit code {code}"


def test_the_readme_examples_are_a_good_configuration_with_a_runbook(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    runbooks = [block for block in blocks if "[[step]]" in block]
    folder = tmp_path / "runbooks.d"
    folder.mkdir(mode=0o700)
    for number, block in enumerate(runbooks):
        file = folder / f"{number}.toml"
        file.write_text(block)
        file.chmod(0o600)
    whole = config.accept("".join(block for block in blocks if block not in runbooks), tmp_path / "healctl.toml")
    assert whole.process
    assert whole.command
    assert len(whole.runbook) == len(runbooks) == 1


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == supervisor.__version__
    assert f"## {supervisor.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = [p.parent for top in ("supervisor", "probes", "remediators") for p in (ROOT / top).rglob("__init__.py")]
    missing = [str(p.relative_to(ROOT)) for p in packages if f"`{p.relative_to(ROOT)}/`" not in text]
    assert missing == []
