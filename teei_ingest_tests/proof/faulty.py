"""A source that fails in all ways that it can, and says something about people each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from teei_ingest_tests.feeding import Ask, Reply, page
from teei_ingest_tests.proof.planting import SAID, Canaries, Record, broken, timestamp

# What a source answers when it is asked for a stream; the records are legal ones of that stream.
Fault = Callable[[Ask, Sequence[Record]], Reply]


def headers(canaries: Canaries) -> dict[str, str]:
    """Headers that say more than they should."""
    return {
        "X-Request-Id": canaries.uuid(SAID),
        "X-Debug-User": canaries.email(SAID),
        "Set-Cookie": f"session={canaries.document(SAID)}; Path=/",
        "ETag": f'"{canaries.document(SAID)}"',
        "Link": f"<http://127.0.0.1:9/?user={canaries.email(SAID)}&page=2>; rel=next",
    }


def problem(canaries: Canaries) -> Record:
    """The body of an error."""
    return {
        "error": canaries.words(SAID),
        "message": f"no such user: {canaries.prose(SAID)}",
        canaries.email(SAID): {"record": canaries.name(SAID), "stack": [canaries.anything(SAID)]},
    }


def faults(canaries: Canaries) -> dict[str, Fault]:
    """Faults by name."""

    def said(status: int, **others: str) -> Fault:
        extra = {name.replace("_", "-"): value for name, value in others.items()}
        return lambda ask, records: Reply(json.dumps(problem(canaries)).encode(), status, headers(canaries) | extra)

    def html(status: int) -> Fault:
        body = f"<html><title>{canaries.words(SAID)}</title><p>{canaries.prose(SAID)}</p></html>"
        return lambda ask, records: Reply(body.encode(), status, headers(canaries) | {"Content-Type": "text/html"})

    def raw(make: Callable[[Ask, Sequence[Record]], bytes], **others: int) -> Fault:
        return lambda ask, records: Reply(make(ask, records), 200, headers(canaries), **others)

    def second(fault: Fault) -> Fault:
        """The fault comes after a first page that is well."""

        def answer(ask: Ask, records: Sequence[Record]) -> Reply:
            if ask.is_first:
                return Reply(page(ask.stream, list(records), following="more", total=len(records) + 9))
            return fault(ask, records)

        return answer

    def odd_records(ask: Ask, records: Sequence[Record]) -> bytes:
        return page(ask.stream, [canaries.prose(SAID), 7, None, [canaries.name(SAID)]])

    def no_utf8(ask: Ask, records: Sequence[Record]) -> bytes:
        return page(ask.stream, list(records)).replace(b'"id"', b'"\xff\xfe": "x", "id"')

    def odd_paging(ask: Ask, records: Sequence[Record]) -> bytes:
        odd = {canaries.email(SAID): canaries.words(SAID)}
        about = {"hasMore": odd, "pagination": {"hasMore": canaries.words(SAID)}, "next_cursor": odd}
        return json.dumps({**json.loads(page(ask.stream, list(records))), **about, "totalResults": [odd]}).encode()

    def all_broken(ask: Ask, records: Sequence[Record]) -> bytes:
        at = str(_at(records[0], ask.stream))
        found = [one for way in range(1, 13) for one in broken(canaries, ask.stream, f"bad-{way}", at, way)]
        return page(ask.stream, [one for one in found if isinstance(_at(one, ask.stream), str)] * 2)

    def descending(ask: Ask, records: Sequence[Record]) -> bytes:
        return page(ask.stream, sorted(records, key=lambda one: str(_at(one, ask.stream)), reverse=True))

    def twice(ask: Ask, records: Sequence[Record]) -> bytes:
        text = page(ask.stream, list(records)).decode()
        key = json.dumps(canaries.email(SAID))
        return f'{{{key}: 1, {key}: NaN, "x": Infinity, {text[1:]}'.encode()

    host = canaries.email(SAID).partition("@")[2]
    return {
        "400": said(400),
        "401": said(401, WWW_Authenticate=f'Bearer realm="{canaries.email(SAID)}"'),
        "403": said(403),
        "404, HTML": html(404),
        "408": said(408),
        "422": said(422),
        "429": said(429, Retry_After=canaries.email(SAID)),
        "429 and a reset that is none": said(429, Retry_After="1", X_RateLimit_Reset=canaries.phone(SAID)),
        "500": said(500),
        "501": said(501),
        "502, HTML": html(502),
        "503": said(503, Retry_After="soon"),
        "200, HTML": html(200),
        "200, no list": said(200),
        "a list of words": raw(lambda ask, _: json.dumps([canaries.prose(SAID)] * 3).encode()),
        "a text for a list": raw(lambda ask, _: page(ask.stream, canaries.prose(SAID))),
        "words for records": raw(
            lambda ask, _: page(ask.stream, [canaries.prose(SAID), 7, None, [canaries.name(SAID)]])
        ),
        "odd paging": raw(odd_paging),
        "cut": raw(lambda ask, records: page(ask.stream, list(records))[:-70]),
        "cut short of its length": raw(lambda ask, records: page(ask.stream, list(records)), missing=50),
        "no UTF-8": raw(
            lambda ask, records: page(ask.stream, list(records)).replace(b'"id"', b'"\xff\xfe": "x", "id"')
        ),
        "no JSON numbers": raw(twice),
        "too deep": raw(lambda ask, _: b'{"a":' * 9000 + json.dumps(canaries.prose(SAID)).encode() + b"}" * 9000),
        "gzip that is none": lambda ask, records: Reply(
            page(ask.stream, list(records)), headers=headers(canaries) | {"Content-Encoding": "gzip"}
        ),
        "elsewhere": said(302, Location=f"http://{host}/?user={canaries.email(SAID)}"),
        "in circles": said(307, Location=f"?user={canaries.email(SAID)}"),
        "an address that is none": said(302, Location=f"http://[{canaries.document(SAID)}/"),
        "broken records": raw(all_broken),
        "descending": raw(descending),
        "500 later": second(said(500)),
        "403 later": second(said(403)),
        "cut later": second(raw(lambda ask, records: page(ask.stream, list(records))[:-70])),
        "the same page again": second(raw(lambda ask, records: page(ask.stream, list(records), "more", total=99))),
        "HTML later": second(html(200)),
        "another order later": second(raw(descending)),
        "odd paging later": second(raw(odd_paging)),
    }


def _at(record: Record, stream: str) -> object:
    for key in timestamp(stream):
        record = record[key]
    return record
