"""Every mutant by its name."""

from __future__ import annotations

from tests.mutants.by_model import BY_MODEL
from tests.mutants.by_sim import DECIDED
from tests.mutants.by_sim_drilled import DRILLED
from tests.mutants.by_sim_replied import REPLIED
from tests.mutants.by_sim_told import TOLD
from tests.mutants.by_test import BY_TEST
from tests.mutants.kinds import Mutant

BY_SIM = (*DECIDED, *TOLD, *REPLIED, *DRILLED)
MUTANTS: dict[str, Mutant] = {it.name: it for it in (*BY_SIM, *BY_MODEL, *BY_TEST)}
assert len(MUTANTS) == len(BY_SIM) + len(BY_MODEL) + len(BY_TEST), "two mutants of one name"
