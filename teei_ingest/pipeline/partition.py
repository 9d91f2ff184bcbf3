"""What became of days: the figures of each, as Dagster, landing and quarantine are told them.

Does not belong here: how days are read and kept (`ingest.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from teei_ingest.errors import ContractBroken, TeeiError
from teei_ingest.extract.read import Reading
from teei_ingest.landing.quarantine import About
from teei_ingest.mapping.decode import Page
from teei_ingest.pipeline.days import Window
from teei_ingest.store.drift import Change


@dataclass
class Partition:
    """What became of one day: fetched = kept + quarantined + duplicates + suppressed + out_of_window.

    `carried` are rows that the source no longer sends, `late` those that it did not send when the day was read before,
    `superseded` those that went because a newer version of their record is stored; `unchanged` says that what is
    stored was the same to the value, so that nothing was written. `read_by` is the run that read it from the source,
    `requeued` are records kept that came out of the quarantine later; `broken` counts what those in it broke, by field
    and rule. `drift` is what was noticed in the window of which this is the last day.
    """

    day: date
    window: Window
    fetched: int = 0
    kept: int = 0
    quarantined: int = 0
    duplicates: int = 0
    suppressed: int = 0
    out_of_window: int = 0
    carried: int = 0
    late: int = 0
    superseded: int = 0
    unchanged: bool = False
    unlisted: int = 0
    requests: int = 0
    pages: int = 0
    filtered_by_source: bool = True
    from_landing: bool = False
    lag_s: float | None = None
    read_by: str = ""
    requeued: int = 0
    broken: Counter[tuple[str, str]] = field(default_factory=Counter)
    drift: Sequence[Change] = ()
    error: TeeiError | None = None

    def about(self) -> About:
        """What the quarantine has to remember of it."""
        figures = {name: getattr(self, name) for name in REMEMBERED}
        window = (self.window.first.isoformat(), self.window.last.isoformat())
        return About(isinstance(self.error, ContractBroken), window, figures)

    @property
    def sent(self) -> int:
        """Records that the source has of this day, each once, and those it had there before they changed again."""
        return self.kept + self.quarantined + self.suppressed + self.superseded

    @property
    def balanced(self) -> bool:
        """Whether every fetched record is accounted for."""
        parts = self.kept + self.quarantined + self.duplicates + self.suppressed + self.out_of_window
        return self.fetched == parts


# What a landing remembers of the reading that brought it, and what the quarantine does.
LANDED = (
    "fetched", "kept", "quarantined", "duplicates", "suppressed", "out_of_window", "unlisted", "requests", "pages",
    "read_by",
)  # fmt: skip
REMEMBERED = tuple(name for name in LANDED if name not in ("quarantined", "read_by"))


@dataclass
class Outcome:
    """All days of a request, good and bad, and how long it took in seconds."""

    partitions: dict[date, Partition] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def good(self) -> list[Partition]:
        """Partitions that are complete, by day."""
        return [p for _, p in sorted(self.partitions.items()) if p.error is None]

    @property
    def bad(self) -> list[Partition]:
        """Partitions that failed and keep what they had, by day."""
        return [p for _, p in sorted(self.partitions.items()) if p.error is not None]


@dataclass
class Figures:
    """Requests and pages of all readings of a window."""

    requests: int = 0
    pages: int = 0
    filtered_by_source: bool = True

    def add(self, reading: Reading[Page] | None) -> None:
        if reading is not None:
            self.requests += reading.requests
            self.pages += reading.pages
            self.filtered_by_source &= reading.filtered_by_source

    def apply(self, partition: Partition) -> Partition:
        partition.requests, partition.pages = self.requests, self.pages
        partition.filtered_by_source = self.filtered_by_source
        return partition
