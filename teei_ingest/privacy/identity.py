"""Who is meant: one line on standard input, and the pseudonyms that it leads to.

Belongs here: reading the line. Does not belong here: what is done with the person. The line is never shown again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from teei_ingest.errors import UsageError
from teei_ingest.redact.suppress import is_nobody
from teei_ingest.redact.tokens import Pseudonyms, normalize_email
from teei_ingest.systems import all_systems

FORMS = 'an email; or a system and the person\'s id there, `workday 21001`; or JSON, `{"system": …, "id": …}`'
_LONGEST = 1_000


@dataclass(frozen=True)
class Identity:
    """A person by email, or by the id in the namespace of a system."""

    namespace: str
    value: str = field(repr=False)

    def pseudonyms(self, names: Pseudonyms) -> frozenset[str]:
        """The token and the hash that the person has under the newest key, if this is how a source calls them."""
        return frozenset((names.person(self.namespace, self.value), names.hashed(self.namespace, self.value)))


def read_identity(stream: IO[str]) -> Identity:
    """The identity on the first line; more than one is an error. Raises UsageError."""
    lines: list[str] = []
    with suppress(UnicodeDecodeError):
        lines = [line for line in stream.read(4 * _LONGEST).splitlines() if line.strip()]
    if len(lines) != 1:
        raise UsageError(f"standard input has to have one line: {FORMS}")
    return parse_identity(lines[0])


def parse_identity(line: str) -> Identity:
    """The identity that a line names. Raises UsageError, without the line."""
    text = line.strip()
    if len(text) > _LONGEST:
        raise UsageError(f"the identity is too long; wanted is {FORMS}")
    if text.startswith("{"):
        return _from_json(text)
    if normalize_email(text) is not None:
        return Identity("email", text)
    system, _, identity = text.partition(" ")
    return _of_system(system, identity.strip())


def _from_json(text: str) -> Identity:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if isinstance(given, dict) and all(isinstance(value, str) for value in given.values()):
        if set(given) == {"email"} and normalize_email(given["email"]) is not None:
            return Identity("email", given["email"])
        if set(given) == {"system", "id"}:
            return _of_system(given["system"], given["id"])
    raise UsageError(f"this names nobody; wanted is {FORMS}")


def _of_system(name: str, identity: str) -> Identity:
    namespaces = {system.name: system.namespace for system in all_systems().values()}
    namespaces |= {namespace: namespace for namespace in namespaces.values()}
    if is_nobody(identity):
        raise UsageError(f"this names nobody; wanted is {FORMS}")
    if name not in namespaces:
        raise UsageError(f"there is no such system; known are: {', '.join(sorted(namespaces))}")
    return Identity(namespaces[name], identity)
