"""`healctl mcp`: the tool `cortex_heal` for agents, over the Model Context Protocol on stdin and stdout (FR-007, R15).

It forwards to the daemon as an agent and decides nothing: what an agent may do is the engine's to say. The SDK is the
optional extra `healctl[mcp]`.
"""

from __future__ import annotations

from typing import Any

import click
import msgspec

from supervisor.cli.options import settings, with_config
from supervisor.errors import HealError, UsageError

TOOL = "cortex_heal"
EXECUTE_S, OTHER_S = 120.0, 30.0
# action -> (required, optional) arguments, with the names that the daemon knows them by (SITE.md).
ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "status": ((), ()),
    "list_runbooks": ((), ()),
    "approve": (("runbook_id",), ("target_id",)),
    "dry_run": (("runbook_id", "target_id"), ()),
    "execute": (("runbook_id", "target_id"), ("confirm",)),
    "record_fix": (("incident_id", "description"), ("commands",)),
    "dismiss": (("incident_id", "reason"), ()),
}
_PROPERTIES: dict[str, dict[str, Any]] = {
    "action": {"type": "string", "enum": [*ACTIONS], "description": "What to do."},
    "runbook_id": {"type": "string", "description": "approve, dry_run, execute: e.g. rb-restart-service"},
    "target_id": {"type": "string", "description": "dry_run, execute; approve: only for this target"},
    "confirm": {"type": "boolean", "description": "execute: must be true"},
    "incident_id": {"type": "string", "description": "record_fix, dismiss"},
    "description": {"type": "string", "description": "record_fix: what was done, in words"},
    "commands": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "string"}},
        "description": "record_fix: the commands that led to the fix, each as a list of arguments",
    },
    "reason": {"type": "string", "description": "dismiss: why"},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": _PROPERTIES,
    "required": ["action"],
    "additionalProperties": False,
}
DESCRIPTION = (
    "Self-healing of this host: open incidents and runbooks. status, list_runbooks, dry_run, record_fix and dismiss "
    "act at once; approve and execute become requests that a person confirms with a one-time code."
)


def forward(arguments: dict[str, Any] | None, ask: Any) -> dict[str, Any]:
    """`ask(action, args, deadline_s)` -> JSON bytes. Raises UsageError for arguments that the action does not take."""
    given = dict(arguments or {})
    action = given.pop("action", None)
    if not isinstance(action, str) or action not in ACTIONS:
        raise UsageError(f"action {action!r} is none of {', '.join(ACTIONS)}")
    required, optional = ACTIONS[action]
    missing = [name for name in required if name not in given]
    if missing:
        raise UsageError(f"{action} needs {', '.join(missing)}")
    unknown = [name for name in given if name not in required + optional]
    if unknown:
        takes = ", ".join(required + optional) or "nothing else"
        raise UsageError(f"{action} takes no {', '.join(unknown)}", f"it takes {takes}")
    answer: dict[str, Any] = msgspec.json.decode(ask(action, given, EXECUTE_S if action == "execute" else OTHER_S))
    return answer


@click.command(
    epilog="\b\nExample:\n  healctl mcp\n"
    '\n\b\nAn MCP client starts it:\n  {"mcpServers": {"healctl": {"command": "healctl", "args": ["mcp"]}}}'
)
@with_config
@click.option("--agent", default="mcp", show_default=True, metavar="NAME", help="Who the trail says has asked.")
def mcp(agent: str) -> None:
    """Serve the tool cortex_heal over MCP, until standard input ends.

    Its approve and execute become requests that you confirm: `healctl heal requests`, unless [mcp] trusted = true.
    """
    try:
        import anyio
        from mcp import types
        from mcp.server.lowlevel import Server
        from mcp.server.stdio import stdio_server
    except ImportError as error:
        raise HealError(f"the MCP SDK is not installed ({error.name})", "pip install 'healctl[mcp]'") from error
    from supervisor import __version__
    from supervisor.cli.client import Control

    runtime_dir = settings().dirs().runtime_dir

    def ask(action: str, args: dict[str, Any], deadline_s: float) -> bytes:
        with Control(runtime_dir) as control:  # a new one each time: the daemon may have been restarted
            return control.ask(action, args, deadline_s, f"agent:{agent}")

    def call(params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            if params.name != TOOL:
                raise UsageError(f"no tool {params.name!r}", f"the only one is {TOOL}")
            answer, failed = forward(params.arguments, ask), False
        except HealError as error:
            answer, failed = {"error": error.message, "code": error.code, "hint": error.hint}, True
        text = msgspec.json.encode(answer).decode()
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=text)], structured_content=answer, is_error=failed
        )

    async def on_list(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name=TOOL, description=DESCRIPTION, input_schema=SCHEMA)])

    async def on_call(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return await anyio.to_thread.run_sync(call, params)

    server = Server("healctl", version=__version__, on_list_tools=on_list, on_call_tool=on_call)

    async def serve() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(serve)
