"""What delta-rs, Arrow and the system refuse, said in one line that says what to do.

Belongs here: which of their errors count, what to do about each, which may be tried again. Does not belong here: how
often and for how long that is done (`tables.py`), what only object stores say (`vault/objects.py`).

Of an error's text, which may show rows, nothing comes out.
"""

from __future__ import annotations

from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError, TableNotFoundError

from teei_ingest.errors import StoreError
from teei_ingest.vault import objects

FAILURES = (DeltaError, OSError, ValueError, TypeError, RuntimeError)
_BY_TEXT = (
    (("os error 28", "os error 122", "os error 27", "no space left"), "{uri} is on a full disk: make room, run again"),
    (("os error 13", "os error 1)", "os error 30", "permission denied"), "{uri} may not be used: mend its permissions"),
    (("failed validation check",), "a row for {uri} is outside of the stream, company and days to replace"),
)
_BY_TYPE: dict[type[Exception], str] = {
    TableNotFoundError: "{uri} has no event tables yet: `teei demo` or `teei sync` makes them",
    SchemaMismatchError: "the rows for {uri} have other columns than their table",
}


class Unsure(StoreError):
    """An object store did not say what became of a request. Everything is a replace, which may be made twice."""


def explained(error: Exception, uri: str) -> str:
    """What to do about an error with the tables at a URI."""
    text = str(error).lower()
    if "://" in uri and (refused := objects.refusal(text, uri)):
        return refused
    for signs, remedy in _BY_TEXT:
        if any(sign in text for sign in signs):
            return remedy.format(uri=uri)
    for kind, remedy in _BY_TYPE.items():
        if isinstance(error, kind):
            return remedy.format(uri=uri)
    return f"the event tables at {uri} cannot be used ({type(error).__name__}): `teei doctor` looks for the reason"


def failure(error: Exception, uri: str) -> StoreError:
    """The error to raise in the place of one that a write met."""
    unsure = "://" in uri and objects.is_unsure(str(error))
    return (Unsure if unsure else StoreError)(explained(error, uri))


def is_lost(error: Exception) -> bool:
    """Whether somebody else was faster with a commit; delta-rs says the same of a disk that refused it."""
    return isinstance(error, CommitFailedError) and "os error" not in str(error)
