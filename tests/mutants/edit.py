"""A mutant is an edit of the source, as a tired programmer would make it: some text of one function is other text.

The edited function's code object takes the real one's place, so that whoever holds the function (`from x import f`, a
table) runs the edited one; its globals are the real module's. That the edit really runs is counted: a call is put in
front of the statement that was edited.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType, ModuleType

import msgspec

_RAN = "_an_edit_ran"


class Edit(msgspec.Struct, frozen=True):
    """`where`: module and function, "supervisor.incidents.breaker:exhausted", "...:Class.method". `old` stands in that
    function exactly once."""

    where: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.where}: {_line(self.old)} -> {_line(self.new)}"


def _line(text: str) -> str:
    return " ".join(text.split()) or "nothing"


class Ran:
    """How often the edited statements have been reached, by edit."""

    def __init__(self, count: int) -> None:
        self.times = [0] * count

    def reached(self, index: int) -> None:
        self.times[index] += 1

    @property
    def everywhere(self) -> bool:
        return all(self.times)


@contextmanager
def edited(edits: Sequence[Edit], ran: Ran | None = None) -> Iterator[Ran]:
    """The source is so as long as the block runs. Raises ValueError for an edit that does not fit the source."""
    ran = Ran(len(edits)) if ran is None else ran
    functions: dict[str, list[int]] = {}
    for index, edit in enumerate(edits):
        functions.setdefault(edit.where, []).append(index)
    with ExitStack() as stack:
        for where, indices in functions.items():
            stack.enter_context(_one(where, {index: edits[index] for index in indices}, ran))
        yield ran


@contextmanager
def _one(where: str, edits: dict[int, Edit], ran: Ran) -> Iterator[None]:
    name, _, qualname = where.partition(":")
    module = importlib.import_module(name)
    function = _function(module, qualname)
    real = function.__code__
    function.__code__ = _code(module, qualname, edits)
    setattr(module, _RAN, ran.reached)
    try:
        yield
    finally:
        function.__code__ = real
        module.__dict__.pop(_RAN, None)


def _function(module: ModuleType, qualname: str) -> FunctionType:
    found: object = module
    for part in qualname.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    if not isinstance(found, FunctionType):
        raise ValueError(f"{module.__name__}:{qualname} is no function")
    return found


def _code(module: ModuleType, qualname: str, edits: dict[int, Edit]) -> CodeType:
    source, filename = inspect.getsource(module), inspect.getsourcefile(module) or ""
    definition = _definition(ast.parse(source), qualname)
    lines = source.splitlines(keepends=True)
    before, after = definition.lineno - 1, definition.end_lineno
    text = "".join(lines[before:after])
    places: dict[int, int] = {}
    for index, edit in edits.items():
        if text.count(edit.old) != 1 or edit.old == edit.new:
            raise ValueError(f"{edit.where} holds {text.count(edit.old)} times: {edit.old!r}")
        at, grown = text.index(edit.old), len(edit.new) - len(edit.old)
        text = text.replace(edit.old, edit.new)
        places = {other: place + grown * (place > at) for other, place in places.items()} | {index: at}
    tree = ast.parse("".join(lines[:before]) + text + "".join(lines[after:]), filename)
    for index, place in places.items():
        _count(_definition(tree, qualname), before + 1 + text[:place].count("\n"), index)
    return _inner(compile(tree, filename, "exec", dont_inherit=True), qualname)


def _definition(tree: ast.Module, qualname: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    found: ast.AST = tree
    for part in qualname.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        body = getattr(found, "body", [])
        found = next(node for node in body if isinstance(node, kinds) and node.name == part)
    assert isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
    return found


def _count(definition: ast.AST, line: int, index: int) -> None:
    """A call in front of the innermost statement that this line is of."""
    innermost: tuple[list[ast.stmt], ast.stmt] | None = None
    for node in ast.walk(definition):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            for statement in statements if isinstance(statements, list) else ():  # a lambda's is an expression
                if statement.lineno <= line <= statement.end_lineno:
                    innermost = (statements, statement)  # `walk` goes from the outside inwards
    if innermost is None:
        raise ValueError(f"no statement at line {line}")
    body, statement = innermost
    call = ast.Expr(ast.Call(ast.Name(_RAN, ast.Load()), [ast.Constant(index)], []))
    body.insert(body.index(statement), ast.fix_missing_locations(ast.copy_location(call, statement)))


def _inner(code: CodeType, qualname: str) -> CodeType:
    """The code object of this function, within its module's."""
    while code.co_qualname != qualname:
        inner = (const for const in code.co_consts if isinstance(const, CodeType))
        code = next(it for it in inner if f"{qualname}.".startswith(f"{it.co_qualname}."))
    return code
