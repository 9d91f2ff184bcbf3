"""How the sandbox misbehaves, on demand: `FAULTS` is what there is, a `Plan` says which of them strike when.

Belongs here: whatever a source can do wrong, one declaration each. Does not belong here: what the product does about
it, beyond the word that each declaration has for it.
"""

from teei_ingest.sandbox.faults.base import At, Call, Fault, Heals, Parameter
from teei_ingest.sandbox.faults.catalog import FAULTS
from teei_ingest.sandbox.faults.plan import Entry, Plan

__all__ = ["FAULTS", "At", "Call", "Entry", "Fault", "Heals", "Parameter", "Plan"]
