"""What is asked of a server, and what its answers say about it.

Belongs here: the probes, each a sentence about a stream that holds or does not. Does not belong here: HTTP (`wire.py`),
how findings are shown.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count, pairwise
from typing import Any

from teei_ingest.conformance.wire import NONE, WRONG, Answer, Wire
from teei_ingest.contracts.fields import instant_ns
from teei_ingest.errors import SourceError
from teei_ingest.mapping.plan import Plan, plan
from teei_ingest.mapping.record import Broken, RecordMapper
from teei_ingest.streams.base import Between, Choice, Cursor, Derived, PageNumber, ScimFilter, SinceOnly, StartIndex
from teei_ingest.systems.base import OAuth2

PASS, FAIL, CANNOT_TELL = "pass", "fail", "cannot tell"

_PAGES = 20  # of the whole window that are looked at
_FEW = 7  # records of the narrow window, which is read in every page size
_SKEW_S = 300.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Finding:
    """What a probe found; `remedy` is what to tell the vendor, or to do, where it did not pass."""

    probe: str
    verdict: str
    found: str
    remedy: str = ""


class _Fails(Exception):
    """The server does not what it should."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


class _Unknown(_Fails):
    """What the server gave does not show whether it does what it should."""


@dataclass
class Walk:
    """A window read page by page. `ended` says that the source had no more, or passed the window's end."""

    pages: list[list[Any]] = field(default_factory=list)
    ended: bool = False
    total: Any = None

    @property
    def records(self) -> list[Any]:
        return [record for page in self.pages for record in page]


def judge(wire: Wire, since: datetime, until: datetime, company_id: str, tenant: str) -> Iterator[Finding]:
    """Ask about the stream, with what changed in `[since, until)` as the example; a finding for each probe."""
    judging = Judging(wire, since, until, company_id, tenant)
    for name, probe in judging.probes():
        try:
            finding = Finding(name, PASS, probe())
        except _Unknown as unknown:
            finding = Finding(name, CANNOT_TELL, unknown.found, unknown.remedy)
        except _Fails as failed:
            finding = Finding(name, FAIL, failed.found, failed.remedy)
        except SourceError as error:
            finding = Finding(name, FAIL, error.message, "look at the server's log for this request")
        yield finding


class Judging:
    """The probes of one stream; what one has read the later ones use."""

    def __init__(self, wire: Wire, since: datetime, until: datetime, company_id: str, tenant: str) -> None:
        self._wire = wire
        self._stream = wire.stream
        self._since, self._until = since, until
        self._plan: Plan = plan(wire.stream.name)
        self._mapper = RecordMapper(self._plan, company_id, tenant)
        self._first: Answer | None = None
        self._walk: Walk | None = None
        self._narrow: tuple[datetime, datetime, list[str]] | None = None

    def probes(self) -> list[tuple[str, Callable[[], str]]]:
        """Name and probe, in the order in which they are carried out."""
        system, paging = self._wire.system, self._stream.paging
        found: list[tuple[str, Callable[[], str]]] = []
        if system.health_path:
            found.append(("health", self._health))
        if isinstance(system.auth, OAuth2):
            found += [("token", self._token), ("wrong secret", self._wrong_secret)]
        found += [
            ("no credentials", lambda: self._refused(NONE)),
            ("wrong credentials", lambda: self._refused(WRONG)),
            ("reply", self._reply),
            ("clock", self._clock),
        ]
        if system.quota:
            found.append(("rate limit", self._rate_limit))
        found += [("paging", self._paging), ("page sizes", self._page_sizes), ("window", self._window)]
        found.append(("window borders", self._borders))
        if isinstance(self._stream.window, SinceOnly):
            found.append(("order", self._order))
        if isinstance(paging, StartIndex):
            found.append(("total", self._total))
        return [
            *found,
            ("ids", self._ids),
            ("timestamps", self._timestamps),
            ("contract", self._contract),
            ("enumerations", self._enumerations),
            ("unknown fields", self._unknown_fields),
            ("nonsense", self._nonsense),
        ]

    # --- who may ask ----------------------------------------------------------------------------------------------

    def _health(self) -> str:
        status = self._wire.health().status
        if status != 200:
            raise _Fails(f"answers with status {status}", "the health path has to answer 200, without credentials")
        return "answers without credentials"

    def _token(self) -> str:
        answer = self._wire.token()
        if answer.status != 200:
            raise _Fails(f"status {answer.status}", "the credentials have to be good for a token; else renew them")
        value = answer.value if isinstance(answer.value, dict) else {}
        if not isinstance(value.get("access_token"), str) or str(value.get("token_type", "")).lower() != "bearer":
            raise _Fails("no bearer token", "the reply needs `access_token` and `token_type` Bearer (RFC 6749)")
        if not isinstance(value.get("expires_in"), int | float) or value["expires_in"] <= 0:
            raise _Unknown("no `expires_in`", "say for how many seconds a token is good (RFC 6749, section 5.1)")
        return f"a bearer token, good for {value['expires_in']:.0f} s"

    def _wrong_secret(self) -> str:
        return _expect(self._wire.token(wrong=True), (400, 401), "a token request with a wrong secret")

    def _refused(self, credentials: str) -> str:
        answer = self._wire.list(self._whole(), credentials)
        return _expect(answer, (401,), f"a list asked for with {credentials} credentials")

    # --- replies --------------------------------------------------------------------------------------------------

    def _reply(self) -> str:
        self._first = answer = self._wire.list({**self._whole(), **self._size(self._most)})
        self._page(answer)
        if not answer.is_json:
            raise _Fails("the Content-Type is not JSON", "send application/json, or application/scim+json")
        return f"JSON with a list `{self._stream.records}` and what its paging needs"

    def _clock(self) -> str:
        date = self._answered.headers.get("Date", "")
        try:
            ahead = parsedate_to_datetime(date).timestamp() - time.time()
        except (ValueError, TypeError):
            raise _Unknown("no `Date` header", "send one (RFC 9110, section 6.6.1)") from None
        if abs(ahead) > _SKEW_S:
            raise _Fails(f"{abs(ahead):,.0f} s away from ours", "set the server's clock, or this machine's")
        return f"within {max(1, abs(ahead)):.0f} s of ours"

    def _rate_limit(self) -> str:
        names = ("Limit", "Remaining", "Reset")
        given = {name: self._answered.headers.get(f"X-RateLimit-{name}", "") for name in names}
        missing = [f"X-RateLimit-{name}" for name, text in given.items() if not text.strip().isdigit()]
        if missing:
            raise _Fails(f"no number in {', '.join(missing)}", "every reply has to say what is left of the quota")
        quota = self._wire.system.quota
        if quota and int(given["Limit"]) < quota.requests:
            raise _Fails(f"allows {int(given['Limit'])} requests, not {quota.requests}", "have the quota raised")
        return f"{int(given['Remaining'])} of {int(given['Limit'])} requests left"

    # --- pages ----------------------------------------------------------------------------------------------------

    def _paging(self) -> str:
        walk = self._walk = self._read(self._since, self._until, self._most)
        versions = [self._version(record) for record in walk.records]
        _refuse_repeats(versions)
        if not versions:
            raise _Unknown("there are no records in these days", "choose days with records: --from, --to")
        text = f"{len(versions)} records on {len(walk.pages)} pages, none twice"
        return text if walk.ended else f"{text}; there are more"

    def _page_sizes(self) -> str:
        since, until, expected = self._few()
        sizes: list[int | None] = [1, 2, 3, self._most, None]
        for size in sizes:
            walk = self._read(since, until, size, pages=4 * _FEW)
            found = [self._version(record) for record in walk.records if self._is_in(record, since, until)]
            named = f"pages of {size}" if size else "pages of the server's own size"
            _refuse_repeats(found)
            if sorted(found) != expected:
                raise _Fails(f"{named} have {len(found)} records, others {len(expected)}", "every size gives the same")
            if size and max(map(len, walk.pages)) > size:
                raise _Fails(f"{named} have more records than that", f"`{self._stream.paging.limit}` is the most")
        over = self._wire.list({**self._wire.window(since, until), **self._size(self._most + 1)})
        if over.status != 200:
            _expect(over, (400, 422), f"more than {self._most} records a page")
        return f"the same {len(expected)} records in pages of 1, 2, 3, {self._most} and the server's own size"

    def _window(self) -> str:
        outside = sum(not self._is_in(record, self._since, self._until) for record in self._dated())
        if isinstance(self._stream.window, SinceOnly):
            outside = sum(self._moment(record) < _ns(self._since) for record in self._dated())
        if outside:
            raise _Fails(f"{outside} records are not of the window", "`since` is inclusive, `until` exclusive")
        return "no record outside of it"

    def _borders(self) -> str:
        """A window cut a microsecond before, at and after the timestamp of a record."""
        record = min(self._dated(), key=self._moment)
        version = self._version(record)
        at = _EPOCH + timedelta(microseconds=self._moment(record) // 1000)
        asked = {"that begins at": (at, at + _TICK, True), "that ends at": (at - _TICK, at, False)}
        asked["that begins behind"] = (at + _TICK, at + 2 * _TICK, False)
        for words, (since, until, belongs) in asked.items():
            found = [self._version(one) for one in self._read(since, until, self._most, pages=1).records]
            if isinstance(self._stream.window, SinceOnly) and words == "that ends at":
                continue
            if (version in found) is not belongs:
                what = "lacks it" if belongs else "has it"
                raise _Fails(
                    f"a window {words} a record's timestamp {what}", "windows are exact to the microsecond: "
                    "`since` inclusive, `until` exclusive",
                )  # fmt: skip
        return "exact to the microsecond"

    def _order(self) -> str:
        moments = [self._moment(record) for record in self._dated()]
        if any(after < before for before, after in pairwise(moments)):
            raise _Fails("the records do not ascend", f"sort the list by `{self._stream.source_timestamp}`")
        return "ascending"

    def _total(self) -> str:
        walk = self._walked()
        if walk.ended and walk.total != len(walk.records):
            raise _Fails(f"says {walk.total}, and sends {len(walk.records)}", "it counts what the filter finds")
        return f"{walk.total}, as many as there are"

    # --- records --------------------------------------------------------------------------------------------------

    def _ids(self) -> str:
        ids = [self._version(record)[0] for record in self._some()]
        if unusable := sum(not name for name in ids):
            raise _Fails(f"{unusable} of {len(ids)} records have no id", f"`{self._stream.source_id}` is a text")
        if repeated := len(ids) - len(set(ids)):
            raise _Unknown(f"{repeated} ids come again with other timestamps", "is a list of versions meant?")
        return f"{len(ids)}, each once"

    def _timestamps(self) -> str:
        records = self._some()
        if invalid := len(records) - len(list(self._dated())):
            raise _Fails(f"{invalid} of {len(records)} are none", f"`{self._stream.source_timestamp}` is RFC 3339")
        if future := sum(self._moment(record) > (time.time() + _SKEW_S) * 1e9 for record in records):
            raise _Fails(f"{future} of {len(records)} lie in the future", "it says when the record changed")
        return f"{len(records)}, all valid"

    def _contract(self) -> str:
        records = self._some()
        broken = [made for record in records if isinstance(made := self._mapped(record), Broken)]
        if broken:
            worst = Counter((one.field, one.rule) for one in broken).most_common(3)
            named = ", ".join(f"`{name}` ({rule}) {times}" for (name, rule), times in worst)
            raise _Fails(f"{len(broken)} of {len(records)} records break it: {named}", "mend them, or the mapping")
        return f"{len(records)} of {len(records)} records become {self._stream.contract.__name__}"

    def _enumerations(self) -> str:
        made = [self._mapped(record) for record in self._some()]
        if unlisted := sum(one.unlisted for one in made if not isinstance(one, Broken)):
            raise _Unknown(f"{unlisted} values are in no list, and become `other`", "send a list of all values")
        return "every value is listed"

    def _unknown_fields(self) -> str:
        known = self._known()
        found = {name for record in self._some() if isinstance(record, dict) for name in record if name not in known}
        return f"{len(found)}; what no stream declares is dropped" if found else "none"

    def _nonsense(self) -> str:
        """Parameters that mean nothing have to be refused: who ignores them ignores a slip in a window, too."""
        window, paging = self._stream.window, self._stream.paging
        asked: dict[str, dict[str, str]] = {}
        if isinstance(window, ScimFilter):
            asked[window.param] = {window.param: "nonsense"}
        else:
            asked[window.since] = {window.since: "nonsense"}
            asked[paging.limit] = {**self._whole(), paging.limit: "nonsense"}
        if isinstance(window, Between):
            asked[window.until] = {**self._whole(), window.until: "nonsense"}
        if isinstance(paging, PageNumber):
            asked[paging.page] = {**self._whole(), paging.page: "nonsense"}
        if isinstance(paging, Cursor):
            asked[paging.cursor] = {**self._whole(), paging.cursor: "nonsense"}
        for name, params in asked.items():
            accepted = (400, 422, 501) if isinstance(window, ScimFilter) else (400, 422)
            _expect(self._wire.list(params), accepted, f"nonsense in `{name}`")
        return f"refused in {', '.join(f'`{name}`' for name in asked)}"

    # --- reading --------------------------------------------------------------------------------------------------

    def _whole(self) -> Mapping[str, str]:
        return self._wire.window(self._since, self._until)

    @property
    def _most(self) -> int:
        return self._wire.system.max_page

    @property
    def _answered(self) -> Answer:
        if self._first is None:
            raise _Unknown("there was no good reply", "see `reply`")
        return self._first

    def _size(self, size: int | None) -> dict[str, str]:
        return {} if size is None else {self._stream.paging.limit: str(size)}

    def _page(self, answer: Answer) -> list[Any]:
        """The records of a reply. Raises _Fails where it is no page of the stream."""
        if answer.status != 200:
            raise _Fails(f"a list is answered with status {answer.status}", "a good request has to be answered 200")
        records = answer.value.get(self._stream.records) if isinstance(answer.value, dict) else None
        if not isinstance(records, list):
            raise _Fails(f"the reply has no list `{self._stream.records}`", "is this the right API version?")
        paging = self._stream.paging
        if isinstance(paging, PageNumber) and not isinstance(_find(answer.value, paging.more), bool):
            raise _Fails(f"`{paging.more}` is neither true nor false", "say in it whether there are more pages")
        if isinstance(paging, Cursor) and not isinstance(_find(answer.value, paging.next), str | None):
            raise _Fails(f"`{paging.next}` is no text", "a cursor is a text; without more pages it is null")
        if isinstance(paging, StartIndex) and type(_find(answer.value, paging.total)) is not int:
            raise _Fails(f"`{paging.total}` is no number", "it counts all that the filter finds (RFC 7644)")
        return records

    def _read(self, since: datetime, until: datetime, size: int | None, *, pages: int = _PAGES) -> Walk:
        """Read a window page by page, as far as `pages`. Raises _Fails where the paging leads nowhere."""
        paging, walk, seen = self._stream.paging, Walk(), set()
        base = {**self._wire.window(since, until), **self._size(size)}
        more: dict[str, str] = {paging.start: "1"} if isinstance(paging, StartIndex) else {}
        for number in count(1):
            answer = self._wire.list({**base, **more})
            records = self._page(answer)
            walk.pages.append(records)
            if isinstance(paging, PageNumber):
                walk.ended = not _find(answer.value, paging.more)
                more = {paging.page: str(number + 1)}
            elif isinstance(paging, Cursor):
                cursor = _find(answer.value, paging.next)
                walk.ended = not cursor or any(self._moment(one) >= _ns(until) for one in records)
                if cursor in seen:
                    raise _Fails("a cursor comes again", "each page needs a cursor of its own")
                seen.add(cursor)
                more = {paging.cursor: str(cursor)}
            else:
                received, total = len(walk.records), _find(answer.value, paging.total)
                if walk.total not in (None, total):
                    raise _Unknown("the total changed while it was read", "ask again when the list is at rest")
                walk.total, walk.ended = total, received >= total
                if not records and not walk.ended:
                    raise _Fails(f"`{paging.total}` says {total}, and {received} come", "it counts what is sent")
                more = {paging.start: str(received + 1)}
            if walk.ended or number == pages:
                return walk
        raise AssertionError

    def _walked(self) -> Walk:
        if self._walk is None:
            raise _Unknown("the list could not be read", "see `paging`")
        return self._walk

    def _some(self) -> list[Any]:
        records = self._walked().records
        if not records:
            raise _Unknown("there are no records in these days", "choose days with records: --from, --to")
        return records

    def _dated(self) -> list[Any]:
        return [record for record in self._some() if self._moment(record) >= 0]

    def _few(self) -> tuple[datetime, datetime, list[tuple[str, str]]]:
        """A window with few records, and their versions."""
        first, *_ = ordered = sorted(self._dated(), key=self._moment) or [None]
        if first is None:
            raise _Unknown("no record has a valid timestamp", "see `timestamps`")
        since = _EPOCH + timedelta(microseconds=self._moment(first) // 1000)
        last = self._moment(ordered[:_FEW][-1])
        until = _EPOCH + timedelta(microseconds=last // 1000 + 1)
        inside = [record for record in ordered if self._is_in(record, since, until)]
        return since, until, sorted(map(self._version, inside))

    def _is_in(self, record: Any, since: datetime, until: datetime) -> bool:
        return _ns(since) <= self._moment(record) < _ns(until)

    def _moment(self, record: Any) -> int:
        """Source timestamp in ns since 1970; -1 if there is no valid one."""
        try:
            return instant_ns(_find(record, self._stream.source_timestamp))
        except (ValueError, TypeError):
            return -1

    def _version(self, record: Any) -> tuple[str, str]:
        id, at = (_find(record, path) for path in (self._stream.source_id, self._stream.source_timestamp))
        return id if isinstance(id, str) else "", at if isinstance(at, str) else ""

    def _mapped(self, record: Any) -> Any:
        return self._mapper(json.dumps(record).encode())

    def _known(self) -> set[str]:
        """Names at the top of a record that the stream's file or its example has."""
        stream, person = self._stream, self._stream.person
        sources = [*stream.mapping.values(), stream.source_id, stream.source_timestamp, *stream.names]
        if person:
            sources += [one for one in (person.id, person.email, person.key) if one is not None]
        paths: list[str] = []
        for source in sources:
            if isinstance(source, Derived):
                paths += source.paths.values()
            elif isinstance(source, Choice):
                paths.append(source.path)
            elif isinstance(source, str):
                paths.append(source)
        return {path.split("/")[0].removesuffix("?") for path in paths} | set(stream.example)


def _expect(answer: Answer, statuses: Sequence[int], what: str) -> str:
    wanted = " or ".join(map(str, statuses))
    if answer.status not in statuses:
        raise _Fails(f"{what} is answered with status {answer.status}", f"answer it with {wanted}")
    return f"{what} is refused ({answer.status})"


def _refuse_repeats(versions: Sequence[tuple[str, str]]) -> None:
    known = [version for version in versions if all(version)]
    if repeats := len(known) - len(set(known)):
        raise _Fails(f"{repeats} records come twice", "pages must not overlap: sort by something that is unique")


def _find(value: Any, path: str) -> Any:
    for name in path.split("/"):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _ns(moment: datetime) -> int:
    return (moment - _EPOCH) // _TICK * 1000
