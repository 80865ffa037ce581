"""The probe family `spool`: do files pile up in a folder? It looks and tells, and changes nothing."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from acme_spool.settings import FAMILY, SpoolSection, waiting
from probes.base import Probe, Source, begin
from probes.hanging import Hanging, Hangs
from supervisor import plugins
from supervisor.config import Config
from supervisor.incidents.readings import CheckData, Finding, HealthReading, Severity, Status, Unavailable


class SpoolProbe(Probe):
    api = 1
    family = FAMILY
    Section = SpoolSection
    anomalies = MappingProxyType({"backlog": Severity.HIGH})

    def __init__(self, config: Config) -> None:
        self._hanging = Hanging()
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        self._section = plugins.section(config, self.family, SpoolSection)

    def sources(self) -> tuple[Source, ...]:
        ms = round(float(self._section.interval) * 1000)
        return tuple(Source(f"{FAMILY}:{name}", ms, ms) for name in self._section.folders)

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        source = self.source(target_id) or Source(target_id, 1000, 1000)
        began = begin(source, self.family)  # first: how old the reading is counts from here
        try:
            folder = self._section.folder(target_id)
            # A folder may lie on a server that is gone: whatever may hang is asked in a thread.
            files = await self._hanging.call(target_id, partial(waiting, folder), deadline_s - 0.5)
        except KeyError:
            return began.cannot(Unavailable.MISSING, "it is not configured any more")
        except Hangs as error:
            return began.cannot(Unavailable.DEADLINE, str(error))
        except PermissionError as error:
            return began.cannot(Unavailable.PERMISSION, str(error))
        except OSError as error:
            return began.cannot(Unavailable.MISSING, str(error))
        return began.tells(self._judged(len(files)))

    def _judged(self, count: int) -> CheckData:
        """One finding for each anomaly that is declared, also where it is well."""
        most = self._section.max_files
        finding = Finding(
            "backlog",
            Status.FIRING if count > most else Status.CLEAR,
            evidence=f"{count} files wait, at most {most} should",
            hint="see why nobody takes them; the oldest can be set aside",
        )
        return CheckData((finding,), figures={"files": count})
