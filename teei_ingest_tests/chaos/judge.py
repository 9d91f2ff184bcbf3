"""Whether what is stored is what the sandbox has, by the oracle that shares no line with the product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from teei_ingest.sandbox.config import company_id, credential
from teei_ingest.sandbox.faults import Fault, Heals
from teei_ingest.sandbox.people import staff
from teei_ingest.streams import all_streams
from teei_ingest.systems import all_systems
from teei_ingest_tests.chaos.case import COMPANIES, WORLD, Case, Group
from teei_ingest_tests.chaos.place import Place, Rows, Run
from teei_ingest_tests.proof.search import Search
from teei_ingest_tests.second_opinion.oracle import AnyOf, Bindings, Expected, Row, compare, expect
from teei_ingest_tests.second_opinion.server import Company

LOST, DOUBLED, INVENTED, WRONGLY_FAILED, LEAKED = "lost", "doubled", "invented", "wrongly failed", "leaked"
# No document says whether a source that names these means the contract's value of that name.
_PLACEMENTS = ("job_placement", "internship", "apprenticeship", "volunteer_placement")
VERDICTS = (LOST, DOUBLED, INVENTED, WRONGLY_FAILED, LEAKED)


class SandboxCompany(Company):
    """A company as the sandbox knows it."""

    @property
    def benevity_tenant(self) -> str:
        return credential(all_systems()["benevity"], "tenant_id", self.slug)

    @property
    def goodera_project(self) -> str:
        return credential(all_systems()["goodera"], "project_id", self.slug)

    @property
    def workday_tenant(self) -> str:
        return credential(all_systems()["workday"], "tenant_id", self.slug)


@dataclass
class Verdict:
    """What is wrong with a case, and what came of its faults."""

    case: Case
    fired: list[int] = field(default_factory=list)
    came: str = ""
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def say(self, kind: str, what: str) -> None:
        self.wrong.append((kind, what))


def truth(place: Place, group: Group, stream: str) -> Expected:
    """The partitions of a stream as the sandbox has them now."""
    first = datetime.combine(group.first, datetime.min.time(), UTC)
    last = datetime.combine(group.last + timedelta(1), datetime.min.time(), UTC)
    records = place.sandbox.records(stream, group.company, first, last)
    company = SandboxCompany(group.company, company_id(group.company))
    expected = expect({(group.company, stream): records}, [company], group.first, group.last)
    for partition in expected.values():
        for row in partition.rows:
            if row.get("placement_type") == "other":
                row["placement_type"] = AnyOf(("other", *_PLACEMENTS))
    return expected


def judge(
    verdict: Verdict,
    group: Group,
    runs: tuple[Run, Run, Run],
    rows: tuple[Rows, Rows, Rows],
    truths: tuple[Expected, Expected],
) -> None:
    """Judge a case: `rows` before, between and after, `truths` before and after.

    `runs` are the one with the fault, the one that wrote what is there between, which may be the same, and the last.
    """
    case, (disturbed, kept, undisturbed), (before, between, after) = verdict.case, runs, rows
    company, stream = group.company, case.stream
    bindings = Bindings()
    names = {fault.name for fault in case.faults}
    changed = not names.isdisjoint(WORLD)
    may_differ = not names.isdisjoint(("enum-unknown", "type-changed", "unknown-fields"))
    conflicts = "record-conflicts" in names
    # Two bad records without a time and with the same content are one, and the second counts as a duplicate.
    aside = ("quarantined", "duplicates") if "bad-rows" in names and "record-twice" not in names else ("quarantined",)
    may_lack = 0
    for day in group.days:
        if figures := kept.good.get((stream, day)):
            usual = truths[0][company, stream, day].counts
            may_lack += sum(figures[name] - getattr(usual, name) for name in aside)
    if not any(_sets_aside(fault, stream) for fault in case.faults):
        may_lack = 0
    may_lack += sum(fault.outcome(all_streams()[stream]) is Heals.LATER for fault in case.faults)
    for day in group.days:
        at, name = (stream, day), (company, stream, day)
        # A second content of a record that breaks its contract may keep it, and stays when the source has it no more.
        may_gain = truths[0][name].counts.quarantined if conflicts else 0
        good, reason = at in disturbed.good, disturbed.failed.get(at)
        if good == (reason is not None):
            verdict.say(LOST if not good else WRONGLY_FAILED, f"{day}: neither complete nor failed, or both")
        if not good and (case.must_succeed or day in group.days[: group.landed]):
            verdict.say(WRONGLY_FAILED, f"{day}: {reason}")
        if at not in kept.good:
            if before.get(at, []) != between.get(at, []):
                verdict.say(LOST, f"{day}: failed, and is not as it was")
            if kept is not disturbed:
                verdict.say(WRONGLY_FAILED, f"{day} from the landing: {kept.failed.get(at, 'nothing was said of it')}")
        else:
            old, new = truths[0][name].rows, truths[1][name].rows if changed else truths[0][name].rows
            carried = [row for row in before.get(at, []) if changed]
            may_lack = _held(
                verdict,
                f"{day} under the fault",
                old,
                new,
                carried,
                between.get(at, []),
                bindings,
                may_lack,
                may_differ,
                may_gain,
            )
        if at not in undisturbed.good:
            verdict.say(
                WRONGLY_FAILED, f"{day} without a fault: {undisturbed.failed.get(at, 'nothing was said of it')}"
            )
        new = truths[1][name].rows
        earlier = between.get(at, []) if changed else []
        _held(verdict, f"{day} at the end", new, new, earlier, after.get(at, []), bindings, 0, False, may_gain)
    for run in runs:
        verdict.wrong += [
            (INVENTED, f"check {said}") for said in run.checks if f"{company}|" in said and stream in said
        ]
    verdict.came = _came(case, group, disturbed, undisturbed, truths[0])


def same(stream: str, one: Rows, other: Rows) -> bool:
    """Whether the rows of a stream are the same."""
    return {at: rows for at, rows in one.items() if at[0] == stream} == {
        at: rows for at, rows in other.items() if at[0] == stream
    }


def _sets_aside(fault: Fault, stream: str) -> bool:
    """Whether good records may be in the quarantine: with bad ones in their place, or as versions that conflict."""
    return fault.outcome(all_streams()[stream]) is Heals.QUARANTINED or fault.name == "record-conflicts"


def _held(
    verdict: Verdict,
    when: str,
    old: list[Row],
    new: list[Row],
    carried: Iterable[Mapping[str, Any]],
    there: list[dict[str, Any]],
    bindings: Bindings,
    may_lack: int,
    may_differ: bool,
    may_gain: int,
) -> int:
    """Compare a day with all that it must hold (what is in `old` and `new`) and may hold; how much may still lack.

    So many records may be there that no truth has.
    """
    ids = Counter(str(row["event_id"]) for row in there)
    doubled = [name for name, count in ids.items() if count > 1]
    if doubled:
        verdict.say(DOUBLED, f"{when}: {len(doubled)} events")
    must = {(row.record, row.at) for row in old} & {(row.record, row.at) for row in new}
    wanted = {(row.record, row.at): row for row in [*old, *new]}
    kept_over = {str(row["event_id"]): row for row in carried}
    optional = {_line(row) for at, row in wanted.items() if at not in must}
    for line in compare(wanted.values(), there, bindings):
        if line.endswith(": missing"):
            if line in optional:
                continue
            if may_lack > 0:
                may_lack -= 1
                continue
            verdict.say(LOST, f"{when}: {line}")
        elif line.endswith(": not expected"):
            if any(
                f"{_line(row, 'not expected')}" == line and row == kept_over.get(str(row["event_id"])) for row in there
            ):
                continue  # carried over: it was there, and the source has it no more
            may_gain -= 1
            if may_gain >= 0:
                continue
            verdict.say(INVENTED, f"{when}: {line}")
        elif not may_differ:
            verdict.say(INVENTED, f"{when}: {line}")
    return may_lack


def _line(row: Mapping[str, Any], what: str = "missing") -> str:
    return f"{row.get('company')} {row.get('stream')} {row.get('source_id')} {row.get('source_timestamp')}: {what}"


def _came(case: Case, group: Group, disturbed: Run, undisturbed: Run, usual: Expected) -> str:
    """In a word, what came of the fault: the worst that happened to one of its partitions."""
    days = [(case.stream, day) for day in group.days]
    if any(at in disturbed.failed for at in days):
        return "failed"
    both = [(disturbed.good[at], undisturbed.good.get(at, {})) for at in days if at in disturbed.good]
    quarantined = sum(figures["quarantined"] for figures, _ in both)
    if quarantined > sum(usual[group.company, *at].counts.quarantined for at in days):
        return "quarantined"
    for name, what in (("pages", "reread"), ("requests", "retried")):
        if any(figures[name] > other.get(name, 0) for figures, other in both):
            return what
    return "kept"


def canaries(seed: int, people: int) -> Search:
    """The search for whoever works at the companies."""
    found = set()
    for slug in COMPANIES:
        for one in staff(seed, slug, people):
            found |= {one.email, one.name, one.phone, one.street, one.scim_id, one.goodera_id, one.user_id}
    return Search(found)
