"""A whole directory, read to tell who is gone from it. Nothing of a record is kept, and no event changes.

What was stored before the reading began is looked at, and nothing else: whoever came in meanwhile is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from teei_ingest.errors import SourceMisbehaves
from teei_ingest.extract.caller import PagesMoved
from teei_ingest.pipeline.days import Window
from teei_ingest.pipeline.ingest import READINGS, Ingest, ids_by_day
from teei_ingest.redact.tokens import PSEUDONYM, Pseudonyms
from teei_ingest.store.presence import Presence
from teei_ingest.systems import all_systems


@dataclass(frozen=True)
class Present:
    """How many are in the directory, and how many of those that are stored are gone from it."""

    people: int
    gone: int


class WholeDirectory(Ingest):
    """One directory of one company."""

    def look(self) -> Present:
        """Read the whole and note who is gone. Raises TeeiError, and then what was noted before stays."""
        try:
            return self._look()
        finally:
            self._collector.close()

    def _look(self) -> Present:
        store, stream, slug = self._places.store, self.plan.stream, self.company.slug
        began = self._now()
        with store.committing(slug) as needed:
            self._is_current(needed)  # the pseudonyms below are those of the rows
            rows = store.rows(
                stream.contract, stream=stream.name, company=slug, columns=["event_id", "source_id", "day"]
            )
        names, namespace = Pseudonyms.of(self._ring), all_systems()[stream.system].namespace
        there = self._ids()
        if rows.num_rows and not there:
            raise self._error(SourceMisbehaves, "sends an empty directory, though there are people in the one stored")
        # A policy may have either form stored, and had the other one before.
        known = {make(namespace, name) for name in there for make in (names.person, names.hashed)}
        told = rows.filter(pc.fill_null(pc.match_substring_regex(rows["source_id"], f"^{PSEUDONYM}$"), False))
        who = told["source_id"].unique().to_pylist()
        lost = [name for name in who if name not in known]
        gone = told.filter(pc.is_in(told["source_id"], value_set=pa.array(lost, pa.string())))
        with store.committing(slug):  # whoever is erased meanwhile takes the ids along
            still = store.rows(stream.contract, stream=stream.name, company=slug, columns=["event_id"])
            gone = gone.filter(pc.is_in(gone["event_id"], value_set=still["event_id"].combine_chunks()))
            Presence(self._places.settings.home).note(slug, stream.name, ids_by_day(gone), began)
        return Present(len(there), len(lost))

    def _ids(self) -> set[str]:
        """The ids of all resources, as the source sends them."""
        always = Window(date(1970, 1, 1), self._now().date() + timedelta(1))
        for _ in range(READINGS):
            try:
                pages = self.start_later(always).pages
                return {name for page in pages for name, _ in page.ids if isinstance(name, str)}
            except PagesMoved as problem:
                moved = problem
        raise moved
