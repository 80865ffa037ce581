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
from remediators.runbooks import RUNBOOKS
from supervisor import config, errors
from supervisor.cli import manual
from supervisor.cli.main import EPILOG, EXIT_INTERRUPTED
from supervisor.config import Config, Tables
from supervisor.incidents.model import AnomalyType
from supervisor.metering import Metering
from supervisor.pinging import Pinging
from supervisor.schema import Reader
from tests.lab.engine import Lab

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
NO_DEFAULT = {("process", "NAME", "restart"), ("fleet", "hosts")}


def example() -> dict[str, Any]:
    """etc/healctl.toml with every key uncommented, prose left out."""
    lines = (ROOT / "etc/healctl.toml").read_text().splitlines()
    return tomllib.loads("\n".join(re.sub(r"^# (?=[a-z_]+ = )", "", line) for line in lines))


def sections() -> list[tuple[tuple[str, ...], type[msgspec.Struct]]]:
    """Every table of the configuration: its path and its struct; NAME stands for a target's name."""
    found: list[tuple[tuple[str, ...], type[msgspec.Struct]]] = []
    for name, kind in get_type_hints(Tables).items():
        if name == "plugin":
            continue  # its keys are the plugins' own
        if get_origin(kind) is dict:
            found.append(((name, "NAME"), get_args(kind)[1]))
        elif name == "notify":
            ours = {n: k for n, k in get_type_hints(kind).items() if get_origin(k) is not dict}
            found += [(("notify", n), k) for n, k in ours.items()]
            found.append((("notify", "channel", "NAME"), config.ChannelSection))
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
    assert config.parse(re.sub(r"^(\[[\w.]+\.NAME\])", r"# \1", text, flags=re.MULTILINE), "etc") == Config()


def commands() -> list[str]:
    """Every command below the groups, without `healctl` in front."""
    every = [it for it in manual.tree() if not isinstance(it.command, click.Group)]
    return [it.command_path.removeprefix("healctl ") for it in every]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("command", commands())
def test_the_readme_names_every_command(command: str) -> None:
    assert f"`healctl {command}" in README.read_text()


def test_the_documents_name_no_command_that_is_not_there() -> None:
    known = {*commands(), *(name.replace("_", "-") for name in commands())}
    for document in DOCUMENTS:
        in_code = set(re.findall(r"[`$] ?healctl ((?:heal |db |capture )?[a-z][a-z_-]*)", document.read_text()))
        in_code -= {"heal", "db", "capture"}
        assert in_code - known == set(), document.name


@pytest.mark.parametrize("context", list(manual.tree()), ids=lambda it: it.command_path)
def test_the_help_of_every_command_has_an_example(context: click.Context) -> None:
    help_text = context.command.get_help(context)
    assert re.search(r"Examples?:\n(  .*\n)*?  .*healctl", help_text), help_text


def test_the_readme_and_the_help_name_every_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HealError)]
    text = README.read_text()
    for code in {0, EXIT_INTERRUPTED, *(kind.exit_code for kind in kinds)}:
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE), f"README: exit code {code}"
        assert re.search(rf"[ ,]{code} [a-z]", EPILOG[EPILOG.index("Exit codes") :]), f"--help: exit code {code}"


def test_every_metric_is_in_the_table_and_every_name_there_is_one() -> None:
    lines = [line for line in (ROOT / "docs/metrics.md").read_text().splitlines() if line.startswith("| `")]
    named = [name for line in lines for name in re.findall(r"`(heal_\w+)`", line.split("|")[1])]
    world = Lab().engine.world
    pinging = Pinging(lambda: None, Config, world, lambda event: None, 0.0)  # type: ignore[arg-type]
    every = (*Metering(()).families(world, [], None, "", 0.0), *pinging.families())
    shown = [family.name for family in every]
    assert sorted(named) == sorted(shown)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda it: it.name)
def test_the_examples_of_a_document_are_good_configurations_and_runbooks(document: Path, tmp_path: Path) -> None:
    found = blocks(document, "toml")
    runbooks = [block for block in found if "[[step]]" in block]
    configurations = [block for block in found if block not in runbooks]
    for block in configurations:
        config.parse(block, document.name)
    folder = tmp_path / "runbooks.d"
    folder.mkdir(mode=0o700)
    for number, block in enumerate(runbooks):
        file = folder / f"{number}.toml"
        file.write_text(block)
        file.chmod(0o600)
    programs = "".join(block for block in configurations if "[command." in block)
    assert len(config.accept(programs, tmp_path / "healctl.toml").runbook) == len(runbooks)


def test_the_code_that_the_guide_to_plugins_shows_is_the_templates() -> None:
    """Which is installed and run: `tests/acceptance/test_plugin_template.py`."""
    template = "\n".join(
        path.read_text()
        for path in sorted((ROOT / "etc/plugin-template").rglob("*"))
        if path.suffix in (".py", ".toml")
    )
    shown = blocks(ROOT / "docs/plugins.md", "(?:python|ini)")
    assert len(shown) >= 5
    assert [block for block in shown if block not in template] == []


def test_the_documents_show_both_a_configuration_and_a_runbook() -> None:
    assert any("[process." in block for block in blocks(README, "toml"))
    assert any("[[step]]" in block for block in blocks(ROOT / "docs/runbooks.md", "toml"))


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "ARCHITECTURE.md"], ids=lambda it: it.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), f"{document.name}: {link}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in known, f"{document.name}: {link}"


def test_every_anomaly_is_in_the_guides() -> None:
    text = "".join(document.read_text() for document in DOCUMENTS)
    assert [anomaly.value for anomaly in AnomalyType if f"`{anomaly}`" not in text] == []


def test_every_shipped_runbook_is_described() -> None:
    text = (ROOT / "docs/runbooks.md").read_text()
    assert [runbook.id for runbook in RUNBOOKS if f"| `{runbook.id}` |" not in text] == []


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == supervisor.__version__
    assert f"## {supervisor.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = [p.parent for top in ("supervisor", "probes", "remediators") for p in (ROOT / top).rglob("__init__.py")]
    missing = [str(p.relative_to(ROOT)) for p in packages if f"`{p.relative_to(ROOT)}/`" not in text]
    assert missing == []
