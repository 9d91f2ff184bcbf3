"""The source systems, one file each, discovered."""

import sys
from functools import cache

from teei_ingest.discovery import declared
from teei_ingest.systems.base import System


@cache
def all_systems() -> dict[str, System]:
    """Every system by name; external ones first, as people list them."""
    found = declared(sys.modules[__name__], "SYSTEM", System)
    return dict(sorted(found.items(), key=lambda item: (item[1].kind, item[0])))


@cache
def prefixes() -> tuple[str, ...]:
    """What the variables of credentials begin with."""
    found = (name for system in all_systems().values() for name in (system.name, system.shared_credential) if name)
    return tuple(f"{name.upper()}_" for name in dict.fromkeys(found))
