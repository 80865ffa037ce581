"""`healctl capture`: what a shell or an agent runs while an incident is open is reported, so that a fix by hand can
become a runbook (FR-006). The hook costs nothing while all is well: it looks for one file first.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.heal import Answer, ask
from supervisor.cli.options import settings, with_config, with_output

TEXT_CHARS_MAX = 64 * 1024
AGENTS = "openclaw"  # whose commands are an agent's, not a person's
SHELLS = ("bash", "zsh", AGENTS)

_BASH = r"""# healctl: report what is run while an incident is open. In ~/.bashrc:  eval "$(healctl capture hook bash)"
__healctl_capture() {
  local code=$? number text
  [ -e @FLAG@ ] || return "$code"
  read -r number text <<<"$(HISTTIMEFORMAT= builtin history 1)"
  [ "$number" = "${__healctl_number-}" ] && return "$code"
  __healctl_number=$number
  [ "$code" = 0 ] && ( builtin printf '%s' "$text" | @REPORT@ --source bash >/dev/null 2>&1 & )
  return "$code"
}
read -r __healctl_number _ <<<"$(HISTTIMEFORMAT= builtin history 1)"
case ";${PROMPT_COMMAND-};" in
  *__healctl_capture*) ;;
  *) PROMPT_COMMAND="__healctl_capture${PROMPT_COMMAND:+;$PROMPT_COMMAND}" ;;
esac
"""
_ZSH = r"""# healctl: report what is run while an incident is open. In ~/.zshrc:  eval "$(healctl capture hook zsh)"
__healctl_preexec() { __healctl_text=$1 }
__healctl_precmd() {
  local code=$? text=${__healctl_text-}
  __healctl_text=
  if [[ -e @FLAG@ && -n $text && $code == 0 ]]; then
    ( builtin print -rn -- "$text" | @REPORT@ --source zsh >/dev/null 2>&1 & )
  fi
  return $code
}
autoload -Uz add-zsh-hook
add-zsh-hook preexec __healctl_preexec
precmd_functions=(__healctl_precmd $precmd_functions)
"""
_OPENCLAW = """healctl's plugin for OpenClaw reports what its agents run with the exec tool while an incident is
open, once plugins.entries.healctl.config has:

  {"capture": true, "flag": "@FLAG@"}

Install it with: openclaw plugins install -l --accept-capabilities etc/openclaw-plugin
"""


@click.group(epilog="\b\nExample:\n  healctl capture hook bash")
def capture() -> None:
    """Report what is run by hand while an incident is open, so that a fix can become a runbook."""


@capture.command(epilog='\b\nExamples:\n  eval "$(healctl capture hook bash)"\n  healctl capture hook openclaw')
@click.argument("shell", type=click.Choice(SHELLS))
@with_config
def hook(shell: str) -> None:
    """Print the hook for a shell, for `eval` in its start-up file; or how OpenClaw's is switched on.

    While an incident is open, each command that ends well is reported in the background; otherwise nothing is started.
    """
    from supervisor import places

    chosen = settings()
    flag = chosen.dirs().runtime_dir / places.CAPTURING
    config = ("-c", str(chosen.config_path.absolute())) if chosen.config_path is not None else ()
    report_words = shlex.join([sys.argv[0], *config, "capture", "report"])
    text = {"bash": _BASH, "zsh": _ZSH, "openclaw": _OPENCLAW}[shell]
    quoted = shlex.quote(str(flag)) if shell != "openclaw" else str(flag)
    sys.stdout.write(text.replace("@FLAG@", quoted).replace("@REPORT@", report_words))


def _show(answer: Answer) -> None:
    noted = answer["noted_for"]
    output.say(
        f"Noted for {', '.join(map(output.plain, noted))}" if noted else "No open incident that it could be about"
    )


@capture.command(epilog="\b\nExample:\n  echo 'systemctl restart web' | healctl capture report")
@click.option("--source", default="shell", show_default=True, metavar="NAME", help="What reports it.")
@with_output
def report(source: str) -> None:
    """Report one command line, read from standard input. Secrets are taken out of it before anything is kept."""
    from supervisor.incidents.matching import split

    if source == AGENTS:
        settings().actor = f"agent:{source}"
    text = sys.stdin.read(TEXT_CHARS_MAX)
    args: dict[str, Any] = {"commands": split(text), "source": source}
    ask("captured", args, _show)
