"""`make man`: a manual page for each command, out of the very words that `--help` shows.

Walks the command tree and writes roff: `healctl.1`, `healctl-heal.1`, `healctl-heal-approve.1` ... A page has no words
of its own, and no date, so that one version of healctl always gives the same pages.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

import supervisor
from supervisor.cli.main import COMMANDS, cli

_ROFF = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def tree(
    command: click.Command = cli, name: str = "healctl", above: click.Context | None = None
) -> Iterator[click.Context]:
    """Every command in its context, whose `command_path` are the words that call it; the groups themselves included."""
    context = click.Context(command, info_name=name, parent=above, **command.context_settings)
    yield context
    for word, child in _children(context):
        yield from tree(child, word, context)


def _children(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    group = context.command
    if isinstance(group, click.Group):
        for word in group.list_commands(context):
            child = group.get_command(context, word)
            if child is not None and not child.hidden:
                yield word, child


def page(context: click.Context) -> str:
    """One manual page as roff."""
    command, name = context.command, title(context)
    lines = [
        f'.TH "{_text(name.upper())}" "1" "" "healctl {supervisor.__version__}" "healctl"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(_summary(command).removeprefix(f'{name} '))}",
        ".SH SYNOPSIS",
        f"\\fB{_text(context.command_path)}\\fR {_text(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *_prose(command.help or ""),
        ".SH OPTIONS",
    ]
    for option in command.get_params(context):
        if isinstance(option, click.Option) and not option.hidden:
            lines += _option(option, context)
    below = list(_children(context))
    if below:
        lines.append(".SH COMMANDS")
        for word, child in below:
            words = COMMANDS[word][2].rstrip(".") if context.parent is None else _summary(child)
            lines += [".TP", f".B {_text(word)}", _text(words)]
    lines += _epilog(command.epilog or "")
    others = [title(context.parent)] if context.parent is not None else []
    others += [f"{name}-{word}" for word, _ in below]
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{_text(it)}\\fR(1)" for it in others)]
    return "\n".join(lines) + "\n"


def title(context: click.Context) -> str:
    """`healctl heal approve` is healctl-heal-approve(1)."""
    return context.command_path.replace(" ", "-")


def write(folder: Path) -> list[Path]:
    """All pages, those of commands that are no more removed. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for context in tree():
        path = folder / f"{title(context)}.1"
        path.write_text(page(context))
        written.append(path)
    for stale in set(folder.glob("healctl*.1")) - set(written):
        stale.unlink()
    return written


def _summary(command: click.Command) -> str:
    return command.get_short_help_str(limit=200).rstrip(".")


def _prose(help_text: str) -> list[str]:
    """Paragraphs; what click marks by \\b is kept line by line."""
    lines: list[str] = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(help_text))):
        if number:
            lines.append(".PP")
        if paragraph.startswith("\b"):
            lines += [".nf", *(_text(it) for it in paragraph.lstrip("\b\n").splitlines()), ".fi"]
        else:
            lines.append(_text(" ".join(paragraph.split())))
    return lines


def _option(option: click.Option, context: click.Context) -> list[str]:
    record = option.get_help_record(context)
    names, words = record if record is not None else (", ".join(option.opts), option.help or "")
    return [".TP", f".B {_text(names)}", _text(" ".join(words.split()))]


def _epilog(epilog: str) -> list[str]:
    """`Examples:` and `Exit codes:` of the epilog become sections, their lines kept as they are."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(epilog)):
        title, _, body = block.lstrip("\b\n").partition(":")
        if title in ("Example", "Examples"):
            shown = [_text(it.removeprefix("  ")) for it in body.strip("\n").splitlines()]
            lines += [".SH EXAMPLES", ".nf", *shown, ".fi"]
        elif title == "Exit codes":
            lines += [".SH EXIT STATUS"]
            for entry in re.split(r"[,.] (?=\d+ )", " ".join(body.split()).rstrip(".")):
                code, _, words = entry.partition(" ")
                lines += [".TP", f".B {_text(code)}", _text(words)]
        elif block.strip():
            lines += [".SH NOTES", *_prose(block)]
    return lines


def _text(text: str) -> str:
    """Text that roff shows as it is: no escape, no request, no minus that becomes a hyphen."""
    text = "".join(_ROFF.get(char) or (char if char.isascii() else f"\\[u{ord(char):04X}]") for char in text)
    return f"\\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    import sys

    for made in write(Path(sys.argv[1])):
        sys.stdout.write(f"{made}\n")
