"""What a configuration makes healctl watch: targets for the engine, sections for the probes, families for the tree.

Pure but for the home directory and the state directory, which stand in the configuration's paths already.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from supervisor.config import (
    MEMORY_TARGET,
    Config,
    DatabaseSection,
    LogsSection,
    ProcessSection,
    RestartSection,
    TradingSection,
    dirs,
)
from supervisor.incidents import drill_run
from supervisor.incidents.model import Recipe, Target
from supervisor.plugins import Part

SYSTEMCTL = "systemctl"
PM2 = "pm2"
# What the site's own polls are called (SITE.md): "NAME.signals", "fleet.health", "pipeline.state" or "NAME.state".
SIGNALS, STATE, FLEET_SOURCE = "signals", "state", "fleet.health"
METRICS = "metrics"  # the worker that shows them, which watches nothing
# Every family, in the order in which their workers start.
FAMILIES = ("process", "trading", "gateway", "pipeline", "fleet", "host", "database", "logs")


def families(config: Config) -> tuple[str, ...]:
    """Those that have something to watch; each gets a worker of its own (DESIGN §1)."""
    watched = {
        "process": config.process,
        "trading": config.trading,
        "gateway": config.gateway,
        "pipeline": config.pipeline,
        "fleet": config.fleet.hosts or config.fleet.hosts_file,
        "host": True,  # memory, at least
        "database": True,  # our own, at least
        "logs": config.logs,
    }
    return (*(name for name in FAMILIES if watched[name]), *_brought(config, Part.PROBE))


def channels(config: Config) -> tuple[str, ...]:
    """The plugins' channels; each has a worker of its own name."""
    return _brought(config, Part.CHANNEL)


def _brought(config: Config, part: Part) -> tuple[str, ...]:
    return tuple(piece.name for piece in config.piece.values() if piece.part is part)


def worker_of(family: str) -> str:
    """Whose worker reads this family's targets: a drill has none of its own, the one that always runs looks."""
    return "host" if family == drill_run.FAMILY else family


def watched(config: Config) -> tuple[str, ...]:
    """What is watched besides services, family by family, in words."""
    words = [f"live signals ({', '.join(config.trading)})"] if config.trading else []
    words += [f"gateways ({', '.join(config.gateway)})"] if config.gateway else []
    words += [f"pipelines ({', '.join(config.pipeline)})"] if config.pipeline else []
    words += ["the hosts of the fleet"] if config.fleet.hosts or config.fleet.hosts_file else []
    words += ["this host's disks and memory" if config.disk.mounts else "this host's memory"]
    words += [f"databases ({', '.join(databases(config))})"]
    words += [f"log files ({', '.join(config.logs)})"] if config.logs else []
    words += [f"{name} (by a plugin)" for name in _brought(config, Part.PROBE)]
    return tuple(words)


def open_families(config: Config) -> frozenset[str]:
    """Those whose targets a probe finds by itself: mounts, tasks, hosts of a file, whatever a plugin's watches."""
    return frozenset(families(config)) & {"host", "pipeline", "fleet", *_brought(config, Part.PROBE)}


def source_target(config: Config, source_id: str) -> Target | None:
    """The one target that a source of readings from outside speaks of, by its own id or the site's name for it; None
    when it is unknown, or speaks of many (`source_family`)."""
    from supervisor.incidents.world import open_family

    name, dot, kind = source_id.rpartition(".")
    if dot and kind == SIGNALS and name in config.trading:
        source_id = f"{name}-signals"
    family = open_family(source_id)
    if family in open_families(config):
        return Target(source_id, family)
    return next((target for target in targets(config) if target.target_id == source_id), None)


def source_family(config: Config, source_id: str) -> str | None:
    """The family whose worker understands readings of this source (SITE.md, NFR-004); None when nobody does."""
    target = source_target(config, source_id)
    if target is not None:
        return target.family
    name, dot, kind = source_id.rpartition(".")
    if source_id == FLEET_SOURCE:
        family = "fleet"
    elif dot and kind == STATE and (name == "pipeline" or name in config.pipeline):
        family = "pipeline"
    else:
        return None
    return family if family in families(config) else None


def databases(config: Config) -> Mapping[str, DatabaseSection]:
    """The configured ones, then our own and the trades' under their names, unless the same file has one already."""
    found = dict(config.database)
    paths = {section.path for section in found.values()}
    for name, path in (*own_databases(config).items(), *_trades(config).items()):
        if name not in found and path not in paths:
            found[name] = DatabaseSection(path=path)
            paths.add(path)
    return found


def own_databases(config: Config) -> dict[str, str]:
    """Name -> path of those that the store keeps."""
    return {**_projected(config), "ledger": str(dirs(config).state_dir / "ledger.db")}


def written(config: Config) -> Mapping[str, str]:
    """Name -> path of the databases that healctl itself writes and others use too: halted and backed up (R10)."""
    ours = {*_projected(config).values(), *_trades(config).values()}
    return {name: section.path for name, section in databases(config).items() if section.path in ours}


def _projected(config: Config) -> dict[str, str]:
    """The databases to which the store brings what is in the ledger."""
    state_dir = dirs(config).state_dir
    return {
        "brain-db": config.store.brain_db or str(state_dir / "brain.db"),
        "metrics-db": config.store.metrics_db or str(state_dir / "metrics.db"),
    }


def _trades(config: Config) -> dict[str, str]:
    """The trades databases, in which a repair may close a phantom position."""
    return {f"{name}-trades": section.trades_db for name, section in config.trading.items() if section.trades_db}


def logs(config: Config) -> Mapping[str, LogsSection]:
    """The configured ones, and what the services that healctl started have written."""
    output = str(dirs(config).state_dir / "output" / "*.log")
    return {**config.logs, "service-output": LogsSection(paths=(output,))} if config.logs else {}


def targets(config: Config) -> tuple[Target, ...]:
    """What the engine watches, in the order of the file; the targets of `open_families` are found by their probes."""
    out = [_service(name, section) for name, section in config.process.items()]
    for name, trading in config.trading.items():
        out.append(_signals(name, trading, config))
        if trading.trades_db:
            out.append(Target(f"{name}-positions", "trading"))
    for name, gateway in config.gateway.items():
        recipe = Recipe(gateway.restart) if gateway.restart else None
        timeouts = (("restart-gateway", float(gateway.restart_timeout)),)
        out.append(Target(name, "gateway", auto_restart=gateway.auto_restart, recipe=recipe, timeouts_s=timeouts))
    out += [Target(f"fleet:{name}", "fleet") for name in config.fleet.hosts]
    out.append(Target(MEMORY_TARGET, "host"))
    ours = written(config)
    out += [
        Target(name, "database", path=section.path, written=name in ours) for name, section in databases(config).items()
    ]
    out += [Target(name, "logs") for name in logs(config)]
    return tuple(out)


def _service(name: str, section: ProcessSection) -> Target:
    return Target(
        target_id=name,
        family="process",
        auto_restart=section.auto_restart,
        recipe=_recipe(section.restart, section.restart_cwd, section.restart_env, section.restart_output),
        pid_file=section.pid_file,
        match=section.match,
    )


def _signals(name: str, trading: TradingSection, config: Config) -> Target:
    """Behind a live signal stands the process that writes it. `auto_restart` is about a dead one (R3 c), which is that
    process's own anomaly: behind a stale signal it may well be alive."""
    target_id = f"{name}-signals"
    if trading.process not in config.process:
        return Target(target_id, "trading")
    service = _service(trading.process, config.process[trading.process])
    return msgspec.structs.replace(
        service, target_id=target_id, family="trading", auto_restart=False, service=trading.process
    )


def _recipe(section: RestartSection | None, cwd: str, env: Mapping[str, str], output: str) -> Recipe | None:
    """A restart recipe (R8, R11); a manager's is the manager's own restart, which ends what still runs of it."""
    if section is None:
        return None
    pairs = tuple(sorted(env.items()))
    if section.systemd:
        control = (SYSTEMCTL, "--user") if section.user else (SYSTEMCTL,)
        return Recipe(
            argv=(*control, "restart", section.systemd),
            cwd=cwd,
            env=pairs,
            output=output,
            manager="systemd",
            before=(*control, "reset-failed", section.systemd),
        )
    if section.pm2:
        return Recipe(argv=(PM2, "restart", section.pm2), cwd=cwd, env=pairs, output=output, manager="pm2")
    return Recipe(argv=section.argv, cwd=cwd, env=pairs, output=output)
