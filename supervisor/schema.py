"""TOML against structs: turns parsed TOML into frozen structs and names every fault in the user's own words.

Knows no key by name: what is expected stands in the structs' types and in the `Form` of an annotated field. All
faults of a file are found in one pass, each with its line, what was found, what was expected, and a next step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from supervisor import transports
from supervisor.units import (
    DURATION_FORM,
    OFF,
    SIZE_FORM,
    Duration,
    Form,
    Size,
    parse_duration,
    parse_hours,
    parse_listen,
    parse_ping,
    parse_size,
)

Key = tuple[str, ...]
T = TypeVar("T", bound=msgspec.Struct)


_PREFIXES = {
    Form.ENDPOINT: (
        ("http://", "tcp://", "unix:", "jsonrpc+unix:", "jsonrpc+tcp://"),
        '"http://HOST:PORT/PATH", "tcp://HOST:PORT", "unix:/PATH", "jsonrpc+unix:/PATH" or "jsonrpc+tcp://HOST:PORT"',
    ),
    Form.HTTP: (("http://",), 'an address like "http://127.0.0.1:18789/healthz"'),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PERSON = re.compile(r"\+[1-9]\d{4,14}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LINE_CHARS_MAX = 200
PROBLEMS_MAX = 20  # shown at once; more of them would hide the first
LOG_LEVELS = ("debug", "info", "warning", "error")


class Problem(NamedTuple):
    """One fault: the key's path, what is wrong in words, and what to do."""

    key: Key
    text: str
    hint: str = ""


def dotted(key: Key) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part) else shown(part) for part in key)


def shown(value: object) -> str:
    """A value as TOML shows it, short enough for one line."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        # A terminal obeys control characters: they are shown, not sent.
        text = '"' + "".join(char if char.isprintable() else repr(char)[1:-1] for char in value[:80]) + '"'
    elif isinstance(value, dict):
        text = "a table"
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def near(name: str, known: Iterable[str]) -> str:
    """What may have been meant by `name`, as a hint; empty when nothing known looks like it."""
    from difflib import get_close_matches  # only here: a good file never needs it

    found = get_close_matches(name, known, n=1, cutoff=0.6)
    return f'did you mean "{found[0]}"?' if found else ""


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[dict[str, msgspec.structs.FieldInfo], dict[str, Any]]:
    """A struct's fields and their types; found out once, since files may hold thousands of tables of one kind."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    return fields, get_type_hints(kind, include_extras=True)


class Reader:
    """Collects the problems of one file while it converts."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def struct(self, kind: type[T], table: dict[str, Any], key: Key) -> T | None:
        """The struct of `table`; None when anything in it was wrong (the problems say what)."""
        before = len(self.problems)
        fields, hints = _fields(kind)
        values: dict[str, Any] = {}
        for name, value in table.items():
            field = fields.get(name)
            if field is None:
                self._unknown(key, name, tuple(fields), value)
                continue
            values[field.name] = self.value(hints[field.name], value, (*key, name))
            if field.required and value == "":
                self._wrong((*key, name), value, "something: this key has no default")
        for name, field in fields.items():
            if field.required and name not in table:
                where = f"[{dotted(key)}]" if key else "the file"
                self.problems.append(Problem((*key, name), "is missing", f"add {name} = ... to {where}"))
        return kind(**values) if len(self.problems) == before else None

    def _unknown(self, key: Key, name: str, known: tuple[str, ...], value: object) -> None:
        what = "table" if isinstance(value, dict) else "key"
        where = f"[{dotted(key)}]" if key else "the file"
        hint = near(name, known) or f"{where} may hold: {', '.join(known)}"
        self.problems.append(Problem((*key, name), f"unknown {what}", hint))

    def value(self, kind: Any, found: Any, key: Key) -> Any:
        """`found` as `kind`, or a problem and None."""
        origin, args = get_origin(kind), get_args(kind)
        if hasattr(kind, "__metadata__"):
            return self._annotated(args[0], kind.__metadata__, found, key)
        if type(None) in args:
            return self.value(next(arg for arg in args if arg is not type(None)), found, key)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(kind, found, key) if isinstance(found, dict) else self._wrong(key, found, "a table")
        if origin is tuple:
            return self._list(args[0], found, key)
        if origin is dict:
            return self._mapping(args, found, key)
        return self._scalar(kind, found, key)

    def _list(self, kind: Any, found: Any, key: Key) -> Any:
        """A list; of tables, the first is 1 in the key of what is in it."""
        tables = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        if not isinstance(found, list):
            like = f"tables, each under [[{dotted(key)}]]" if tables else 'a list of strings, like ["a", "b"]'
            return self._wrong(key, found, like)
        return tuple(
            self.value(kind, item, (*key, str(number)) if tables else key) for number, item in enumerate(found, 1)
        )

    def _mapping(self, args: tuple[Any, ...], found: Any, key: Key) -> Any:
        if not isinstance(found, dict):
            return self._wrong(key, found, "a table")
        return {self.value(args[0], name, (*key, name)): self.value(args[1], item, (*key, name))
                for name, item in found.items()}  # fmt: skip

    def _annotated(self, kind: Any, metadata: tuple[Any, ...], found: Any, key: Key) -> Any:
        if any(meta.extra and meta.extra.get("form") is Form.PING for meta in metadata):
            return self._ping(found, key)
        before = len(self.problems)
        value = self.value(kind, found, key)
        for meta in metadata:
            if len(self.problems) > before:
                return None
            if meta.min_length is not None and len(value) < meta.min_length:
                return self._wrong(key, found, f"at least {meta.min_length} entry")
            if meta.max_length is not None and len(value) > meta.max_length:
                return self._wrong(key, f"{len(value)} entries", f"at most {meta.max_length}")
            if meta.pattern is not None and not re.fullmatch(meta.pattern, value):
                return self._wrong(key, found, meta.description or f"what matches {meta.pattern}")
            if (meta.ge is not None and value < meta.ge) or (meta.le is not None and value > meta.le):
                return self._wrong(key, found, self._range(meta, found))
            if meta.extra and "form" in meta.extra:
                value = self._form(meta.extra["form"], value, key)
        return value

    def _range(self, meta: msgspec.Meta, found: object) -> str:
        unit = " s" if isinstance(found, str) else ""
        if meta.le is None:
            return f"at least {meta.ge}{unit}"
        return f"between {meta.ge} and {meta.le}{unit}"

    def _scalar(self, kind: Any, found: Any, key: Key) -> Any:
        if kind is Duration:
            return self._unit(parse_duration, found, key, DURATION_FORM)
        if kind is Size:
            return self._unit(parse_size, found, key, SIZE_FORM)
        number = isinstance(found, int | float) and not isinstance(found, bool)
        if kind is float and number:
            return float(found)
        if kind is str and isinstance(found, str) and "\0" in found:
            return self._wrong(key, found, "text without a NUL byte, which no path, program or address can hold")
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return self._word_of(kind, found, key)
        if kind is Any or type(found) is kind:
            return found
        words = {
            str: 'a string in quotes, like "text"',
            bool: "true or false",
            int: "a whole number",
            float: "a number",
        }
        return self._wrong(key, found, words[kind])

    def _word_of(self, kind: type[StrEnum], found: Any, key: Key) -> Any:
        words = [str(word) for word in kind]
        try:
            return kind(found)  # which may know more names than it lists
        except ValueError:
            pass
        hint = near(found, words) if isinstance(found, str) else ""
        return self._wrong(key, found, "one of " + ", ".join(words), hint)

    def _unit(self, parse: Callable[[str], Any], found: Any, key: Key, form: str) -> Any:
        value = parse(found) if isinstance(found, str) else None
        if value is not None:
            return value
        hint = (
            f'write {key[-1]} = "{found}s" if seconds were meant'
            if form is DURATION_FORM and type(found) is int
            else ""
        )
        return self._wrong(key, found, form, hint)

    def _wrong(self, key: Key, found: object, expected: str, hint: str = "") -> Any:
        """Notes the problem; its None stands for the value that could not be read."""
        self.problems.append(Problem(key, f"found {shown(found)}, expected {expected}", hint))
        return None

    def _form(self, form: Form, text: str, key: Key) -> Any:
        """`text` when it is of that form (paths with `~` expanded), else None and a problem. Empty means unset."""
        if form is Form.TARGET_NAME:
            if _NAME.fullmatch(text):
                return text
            return self._wrong(key, text, "a name of a-z, 0-9, '.', '_' and '-', at most 64 characters")
        if form is Form.LISTEN and text != OFF and parse_listen(text) is None:
            return self._wrong(key, text, '"off", or an address of this machine, like "127.0.0.1:9464" or "[::1]:9464"')
        if form is Form.QUIET and text != OFF and parse_hours(text) is None:
            return self._wrong(key, text, '"off", or from when to when, like "22:00-07:00"')
        if not text:
            return text
        if form is Form.PATH:
            return self._path(text, key)
        if form is Form.WORD:
            return self._word(text, key)
        if form is Form.REGEX:
            return self._regex(text, key)
        if form is Form.TABLE and not _TABLE.fullmatch(text):
            return self._wrong(key, text, "the name of a table: letters, digits and '_'")
        if form is Form.LINE and (len(text) > LINE_CHARS_MAX or not text.isprintable()):
            return self._wrong(key, text, f"one line of printable text, at most {LINE_CHARS_MAX} characters")
        if form is Form.TRANSPORT:
            return self._transport(text, key)
        if form is Form.PERSON and not _PERSON.fullmatch(text):
            return self._wrong(key, text, 'a number like "+15550101", or the UUID of a Signal account')
        if form is Form.LOG_LEVEL and text not in LOG_LEVELS:
            return self._wrong(key, text, "one of " + ", ".join(LOG_LEVELS))
        if form is Form.SYNAPSE and text != "brain_db" and not text.startswith("http://"):
            return self._wrong(key, text, '"brain_db" or a REST address, like "http://127.0.0.1:8031"')
        if form in _PREFIXES and not text.startswith(_PREFIXES[form][0]):
            return self._wrong(key, text, _PREFIXES[form][1])
        return self._socket_path(text, key) if "unix:" in text[:13] else text

    def _word(self, text: str, key: Key) -> Any:
        """One argument of a command: no shell reads it, so that `~/` must be understood here."""
        return str(Path(text).expanduser()) if text.startswith("~/") else text

    def _path(self, text: str, key: Key) -> Any:
        path = Path(text)
        if text.startswith("~"):
            try:
                path = path.expanduser()
            except RuntimeError:
                return self._wrong(key, text, "a path of a user that exists")
        if not path.is_absolute():
            hint = "a relative path would depend on where healctl was started"
            return self._wrong(key, text, "an absolute path (or one that begins with ~)", hint)
        return str(path)

    def _transport(self, text: str, key: Key) -> Any:
        """A path in it may begin with `~/`."""
        scheme = "unix:" if text.startswith("unix:") else ""
        path = text.removeprefix(scheme)
        if path.startswith("~/"):
            text = f"{scheme}{Path(path).expanduser()}"
        try:
            return transports.parse(text).text
        except ValueError as error:
            return self._wrong(key, text, str(error))

    def _ping(self, found: Any, key: Key) -> Any:
        """Whoever knows such an address can keep its watcher quiet: it is not shown, whatever is wrong with it."""
        if isinstance(found, str) and (not found or parse_ping(found) is not None):
            return found
        text = 'is a secret and not shown, expected an address like "https://hc-ping.com/UUID", or "" for none'
        hint = "http:// or https://, a host and a path of printable ASCII, without user, password or '#'"
        self.problems.append(Problem(key, text, hint))
        return None

    def _socket_path(self, text: str, key: Key) -> Any:
        scheme, _, path = text.partition("unix:")
        expanded = self._path(path, key)
        return None if expanded is None else f"{scheme}unix:{expanded}"

    def _regex(self, text: str, key: Key) -> Any:
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            return self._wrong(key, text, "a regular expression", f"Python's re says: {error}")
        return text


_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(
    r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*="""
)
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)""")


def _parts(text: str) -> Key:
    return tuple(match[1] or match[2] or match[3] or "" for match in _PART.finditer(text))


def lines(text: str) -> dict[Key, int]:
    """Where each key and table stands, best effort: tables and simple assignments, not inside inline tables.

    The tables of an array are numbered in the key, from 1, as `Reader` does.
    """
    found: dict[Key, int] = {}
    arrays: dict[Key, int] = {}
    table: Key = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        assignment = _ASSIGNMENT.match(line)
        if header:
            table, parts = (), _parts(header[2])
            for index, part in enumerate(parts, 1):
                table = (*table, part)
                found.setdefault(table, number)
                if header[1] == "[[" and index == len(parts):
                    arrays[table] = arrays.get(table, 0) + 1
                if table in arrays:
                    table = (*table, str(arrays[table]))
            found.setdefault(table, number)
        elif assignment:
            found.setdefault((*table, *_parts(assignment[1])), number)
    return found


def line_of(key: Key, where: dict[Key, int]) -> int:
    """The line of `key`, or of the nearest thing around it; 1 when nothing is found."""
    for length in range(len(key), 0, -1):
        if key[:length] in where:
            return where[key[:length]]
    return 1


def report(problems: list[Problem], text: str, source: str) -> str:
    """Every problem in words, in the order of the `text`, each with its line."""
    where = lines(text)
    at = sorted((line_of(problem.key, where), index) for index, problem in enumerate(problems))
    out = []
    for line, index in at[:PROBLEMS_MAX]:
        problem = problems[index]
        out.append(f"{source}:{line}: key {dotted(problem.key)}: {problem.text}")
        if problem.hint:
            out.append(f"  {problem.hint}")
    if len(at) > PROBLEMS_MAX:
        out.append(f"{source}: and {len(at) - PROBLEMS_MAX} more")
    return "\n".join(out)
