"""`healctl install` and `uninstall`: healctl as a unit of systemd, with completions and manual pages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.options import settings, with_output
from supervisor.errors import ConfigError, HealError, Refused

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.install.files import Found, Wanted
    from supervisor.install.manager import Manager, Standing
    from supervisor.install.scope import Scope

Command = Callable[..., Any]

INSTALL = """\b
Examples:
  healctl install --dry-run              what it would write and run; changes nothing
  sudo healctl install -c /etc/healctl/healctl.toml
  healctl install --user                 a unit of your own systemd
  healctl install --no-enable            only the files: for an image, or another service manager

\b
It checks the configuration, writes the units, has systemd enable and start them, and writes completions for the shells
that are here and manual pages. What the unit may see and write is computed from the configuration, each line with its
reason: run it again when that has changed. A second run changes nothing. A file that was changed by hand is refused;
a change of your own belongs into a drop-in (systemctl edit healctl).

\b
JSON: {ok, scope, program, configuration, state, files: [{path, change}], kept: [PATH], ran: [COMMAND], notes: [TEXT],
  unit: {active, enabled}}, where change is write, replace (was ours), overwrite (with --force), remove (a manual
  page of a command that is no more) or same; unit is null with --no-enable or --dry-run.

\b
Exit codes: 0 it is installed, or was so already. 1 refused or failed; what was changed is said. 2 a path that no unit
  can have. 78 the configuration is wrong, or there is none."""

UNINSTALL = """\b
Examples:
  healctl uninstall --dry-run
  sudo healctl uninstall

\b
The state, the configuration and your drop-ins stay; it says where they are. What it has healed lives on.

\b
JSON: {ok, scope, files: [{path, change}], ran: [COMMAND], notes: [TEXT]}, where change is remove, or leave (it was
  changed by hand).

\b
Exit codes: 0 it is gone, or was never there. 1 refused or failed; the same command goes on."""


class Job(msgspec.Struct, frozen=True):
    """One call: where, and what is told at its end."""

    scope: Scope
    manager: Manager
    dry_run: bool
    notes: list[str]

    def changes(self, files: list[tuple[str, str]], extra: dict[str, Any]) -> None:
        """Tells people or programs what was (or would be) done."""
        if settings().json:
            listed = [{"path": path, "change": change} for path, change in files]
            body = {"ok": True, "scope": self.scope.name, "files": listed, "ran": self.manager.said}
            output.show_json(msgspec.json.encode({**body, **extra, "notes": self.notes}))
            return
        manuals = [change for path, change in files if Path(path).parent == self.scope.manuals and change != "same"]
        for path, change in files:
            if change != "same" and Path(path).parent != self.scope.manuals:
                output.say(f"{change.ljust(9)}  {output.plain(path)}")
        for change in dict.fromkeys(manuals):
            output.say(f"{change.ljust(9)}  {manuals.count(change)} manual pages in {self.scope.manuals}")
        for command in self.manager.said:
            output.say(f"run        {command}")
        if not self.manager.said and all(change == "same" for _, change in files):
            output.say("nothing to change")
        elif self.dry_run:
            output.say("nothing was changed: this was a dry run")
        for text in self.notes:
            output.note(f"note: {output.plain(text)}")


def with_scope(command: Command) -> Command:
    """--user | --system, --dry-run."""
    user = click.option(
        "--user/--system", "user", default=None, help="Whose systemd. Default: the system's as root, else your own."
    )
    dry = click.option("--dry-run", is_flag=True, help="Only say what would be written and run.")
    return user(dry(command))


@click.command(epilog=INSTALL)
@with_scope
@click.option("--print", "only_print", is_flag=True, help="Write the units to standard output, to no file.")
@click.option("--no-enable", is_flag=True, help="Write the files only; systemd is not asked or told anything.")
@click.option("--units-only", is_flag=True, help="No completions, no manual pages.")
@click.option("--force", is_flag=True, help="Replace what was changed by hand; it is kept beside it as FILE.before~.")
@with_output
def install(user: bool | None, dry_run: bool, only_print: bool, no_enable: bool, units_only: bool, force: bool) -> None:
    """Install healctl as a unit of systemd that fits the configuration, with completions and manual pages."""
    from supervisor import config
    from supervisor.install import files, manager
    from supervisor.install.scope import healctl

    job = _job(user, dry_run)
    program = healctl()
    loaded, file = _configuration()
    units = _units(loaded, file, program, job)
    if only_print:
        for one in units:
            output.say(f"# {one.path}\n{one.text}")
        return
    wanted, stale = _all_files(units, job, units_only=units_only)
    found = {one.path: files.found(one) for one in wanted}
    standing = None if no_enable else _standing(job, loaded)
    if not force:
        _refuse_foreign(found)
    job.notes.extend(manager.verified({one.path.name: one.text for one in units}, user=job.scope.user))
    kept: list[Path] = []
    if not dry_run:
        kept = files.put([one for one in wanted if found[one.path] is not files.Found.SAME])
        files.remove(stale)
    after = None
    if standing is not None:
        _order(job, standing, {one.path.name for one in units if found[one.path] is not files.Found.SAME})
        after = standing if dry_run else job.manager.standing()
    _advise(job, loaded, file, program)
    words = {files.Found.SAME: "same", files.Found.OURS: "replace", files.Found.FOREIGN: "overwrite"}
    listed = [(str(path), words.get(it, "write")) for path, it in found.items()] + [(str(it), "remove") for it in stale]
    more = {"program": program, "configuration": file, "state": config.dirs(loaded).state_dir, "kept": kept}
    told: dict[str, Any] = {key: [*map(str, it)] if isinstance(it, list) else str(it) for key, it in more.items()}
    told["unit"] = after and {"active": after.active, "enabled": after.enabled}
    job.notes.extend(f"what was there is kept as {path}" for path in kept)
    job.changes(listed, told)


@click.command(epilog=UNINSTALL)
@with_scope
@click.option("--force", is_flag=True, help="Remove what was changed by hand, too; it is kept as FILE.before~.")
@with_output
def uninstall(user: bool | None, dry_run: bool, force: bool) -> None:
    """Stop and disable the unit, and remove what install has written and nobody has changed since."""
    from supervisor.cli import shell_files
    from supervisor.install import files, unit

    job = _job(user, dry_run)
    service, failure = job.scope.units / unit.SERVICE, job.scope.units / unit.FAILURE
    judged = {path: files.judged(path) for path in (service, failure)}
    there = [path for path, it in judged.items() if it is not files.Found.NOTHING]
    foreign = [path for path in there if judged[path] is files.Found.FOREIGN]
    if service in foreign and not force:
        raise Refused(
            f"{service} was changed by hand, or another wrote it: nothing was changed",
            f"--force removes it and keeps it beside; or: {job.manager.control} disable --now {unit.SERVICE}",
        )
    gone = [*(path for path in there if force or path not in foreign), *shell_files.ours(job.scope)]
    if service in there:
        _tell_what_stays(job, service)
        _stop(job)
    if not dry_run:
        kept = files.set_aside([path for path in foreign if force])
        job.notes.extend(f"what was there is kept as {path}" for path in kept)
        files.remove(gone)
        wants = job.scope.units / f"{unit.WANTED_BY}.wants" / unit.SERVICE
        if wants.is_symlink() and wants.readlink() == service:  # where no systemd was there to disable it
            files.remove([wants])
    if service in there:
        _forget(job)
    left = [] if force else foreign
    job.notes.extend(f"{path} was changed by hand, and stays" for path in left)
    job.changes([*((str(path), "remove") for path in gone), *((str(path), "leave") for path in left)], {})


def _job(user: bool | None, dry_run: bool) -> Job:
    from supervisor.install.manager import Manager
    from supervisor.install.scope import healctl, scope

    root = os.geteuid() == 0
    user = not root if user is None else user
    if not user and not root:
        raise Refused(
            "a unit of the system is for root to install, with root's own configuration",
            f"sudo {healctl()} {click.get_current_context().info_name} --system, or --user for a unit of your own",
        )
    return Job(scope(os.environ, user=user), Manager(user=user, dry_run=dry_run), dry_run, [])


def _configuration() -> tuple[Config, Path]:
    """What `healctl check` checks, and its file. Raises ConfigError."""
    from supervisor import places

    chosen = settings()
    file = places.locate(chosen.config_path, os.environ)
    if file is None:
        raise ConfigError(
            "there is no configuration to install healctl for",
            "healctl init looks at this host and writes one; -c FILE names another",
        )
    try:
        return chosen.load(), file.absolute()
    except ConfigError as error:
        raise ConfigError(
            error.message, f"{error.hint}\n  nothing was changed: correct it, then healctl check".lstrip()
        ) from error


def _units(loaded: Config, file: Path, program: Path, job: Job) -> list[Wanted]:
    from probes.mounts import read_table
    from supervisor.install import fitting

    mounts = [it.point for it in read_table().by_point.values() if it.worth_watching]
    units, notes = fitting.units(loaded, file, program, job.scope, os.environ, mounts)
    job.notes.extend(notes)
    return units


def _all_files(units: list[Wanted], job: Job, *, units_only: bool) -> tuple[list[Wanted], list[Path]]:
    """What is to be there, and what install has written once and is no more."""
    from supervisor.cli import shell_files
    from supervisor.install.scope import shells_here

    if units_only:
        return units, []
    more = shell_files.wanted(job.scope, shells_here(os.environ))
    paths = {one.path for one in more}
    pages = [path for path in shell_files.ours(job.scope) if path.parent == job.scope.manuals and path not in paths]
    return units + more, pages


def _refuse_foreign(found: dict[Path, Found]) -> None:
    from supervisor.install.files import Found

    foreign = [str(path) for path, it in found.items() if it is Found.FOREIGN]
    if foreign:
        raise Refused(
            f"changed by hand, or not of healctl install: {', '.join(foreign)}: nothing was changed",
            "--force replaces it and keeps it as FILE.before~; a drop-in stays: systemctl [--user] edit healctl",
        )


def _standing(job: Job, loaded: Config) -> Standing:
    """Raises Refused where it cannot become a service, with what to do in place of it."""
    from supervisor import config
    from supervisor.install.unit import SERVICE
    from supervisor.tree.lock import holder

    try:
        standing = job.manager.standing()
    except Refused as error:
        if job.scope.user and not os.environ.get("XDG_RUNTIME_DIR"):
            how = "log in as this user (su and sudo make no session), or, once: loginctl enable-linger, then export"
            how += f" XDG_RUNTIME_DIR=/run/user/{os.geteuid()}"
        else:
            how = "without systemd: healctl start --detach, or healctl start under another service manager"
        hint = f"nothing was changed; {how}; --no-enable writes the files only"
        raise Refused(error.message, hint) from error
    if standing.masked or os.path.realpath(job.scope.units / SERVICE) == os.devnull:  # systemd may not know yet
        raise Refused(f"{SERVICE} is masked: nothing was changed", f"{job.manager.control} unmask {SERVICE}")
    other = holder(config.dirs(loaded).runtime_dir)
    if other is not None and other.pid != standing.main_pid:
        raise Refused(
            f"healctl runs already (pid {other.pid}), but not as this unit: nothing was changed",
            "healctl stop, then install again; services live on",
        )
    return standing


def _order(job: Job, standing: Standing, changed: set[str]) -> None:
    """Raises HealError, with where to look."""
    from supervisor.install.unit import SERVICE

    try:
        if changed or standing.stale:
            job.manager.do("daemon-reload")
        if standing.failed:
            job.manager.do("reset-failed", SERVICE)
        if not standing.enabled:
            job.manager.do("enable", SERVICE)
        if not standing.active:
            job.manager.do("start", SERVICE)
        elif SERVICE in changed or standing.stale:  # an install that was killed has left it at that
            job.manager.do("restart", SERVICE)
    except HealError as error:
        whose = "--user " if job.scope.user else ""
        raise HealError(
            error.message,
            f"the files are in place; look: journalctl {whose}-u healctl -n 30; the same command goes on from here",
        ) from error


def _stop(job: Job) -> None:
    """Where no systemd answers there is nothing to stop: the files are what there is."""
    from supervisor.install.unit import SERVICE

    try:
        job.manager.standing()
    except Refused as error:
        job.notes.append(f"{error.message}: only files were removed")
        return
    job.manager.do("disable", "--now", SERVICE)


def _forget(job: Job) -> None:
    from supervisor.install.unit import SERVICE

    if not job.manager.said:
        return
    job.manager.do("daemon-reload")
    if not job.dry_run and job.manager.standing().failed:
        job.manager.do("reset-failed", SERVICE)


def _tell_what_stays(job: Job, service: Path) -> None:
    from supervisor.install import files
    from supervisor.install.unit import CONFIGURATION, STATE, told

    text = files.text(service)
    for what, prefix in (("the configuration", CONFIGURATION), ("the state", STATE)):
        if where := told(text, prefix):
            job.notes.append(f"{what} stays: {where}")
    if (dropins := service.with_name(f"{service.name}.d")).is_dir():
        job.notes.append(f"your drop-ins stay: {dropins}")


def _advise(job: Job, loaded: Config, file: Path, program: Path) -> None:
    """What will bite although it is no reason to refuse."""
    import shlex
    import shutil

    from supervisor.doctor import lingering, this_host
    from supervisor.install.scope import others_who_may_change

    if job.scope.user:
        found = lingering(this_host(loaded, file))
        job.notes.extend(f"{it.says}, healctl too, and it does not start with the machine: {it.mend}" for it in found)
        if (zsh := job.scope.completions["zsh"]).exists():
            line = f"fpath=({shlex.quote(str(zsh.parent))} $fpath)"
            job.notes.append(f"zsh finds its completions with this in ~/.zshrc, before compinit: {line}")
    else:
        for what, path in (("program", program), ("configuration", file)):
            if whose := next(others_who_may_change(path), ""):
                job.notes.append(f"{whose}: who may change its {what} {path} can do anything here as root")
    if shutil.which("healctl") is None:
        job.notes.append(f"healctl is not in PATH, so that shells cannot complete it: {program.parent}")
