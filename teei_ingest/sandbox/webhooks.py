"""The webhooks of Benevity, Goodera and Workday: deliveries that say which records have changed.

Belongs here: what a delivery says, and sending many. Does not belong here: signing (`sign.py`).
"""

from __future__ import annotations

import http.client
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from itertools import cycle, islice
from queue import Empty, SimpleQueue
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from teei_ingest.errors import UsageError
from teei_ingest.sandbox.chance import write
from teei_ingest.sandbox.config import credential
from teei_ingest.sandbox.records import Record
from teei_ingest.sandbox.sign import SENDERS, sign
from teei_ingest.streams import all_streams
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems

_LOOPBACK = r"^http://127\.0\.0\.1:[0-9]{1,5}/[a-z0-9/]*$"
_TIMEOUT_S = 60


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """`count` deliveries to `url`, on this machine, `at_once` of them side by side, about the records of a window.

    `since` and `until` are RFC 3339 times; without `since` it is the last day.
    """

    url: Annotated[str, msgspec.Meta(pattern=_LOOPBACK)]
    stream: str
    company: str
    count: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    at_once: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    since: str | None = None
    until: str | None = None

    @classmethod
    def parse(cls, data: Any) -> Order:
        """Raises UsageError."""
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            problem = str(error)
        raise UsageError(problem)

    def window(self, now: float) -> dict[str, str]:
        """Which records; `now` in seconds since 1970."""
        since = self.since or write(int(now - 86_400) * 1_000_000_000)
        window = {"stream": self.stream, "company": self.company, "since": since}
        return window | ({"until": self.until} if self.until else {})


def send(order: Order, records: Sequence[Record], now: Callable[[], float]) -> Counter[str]:
    """Announce the records, over and over until there are enough deliveries; how many had which status.

    `now` gives seconds since 1970. Raises UsageError if the stream's system sends no webhooks, or there is no record.
    """
    stream = all_streams()[order.stream]
    if stream.system not in SENDERS:
        raise UsageError(f"{stream.system} sends no webhooks; {', '.join(SENDERS)} do")
    if not records:
        raise UsageError("there is no record in this window")
    left: SimpleQueue[bytes] = SimpleQueue()
    for record in islice(cycle(records), order.count):
        left.put(_body(stream, order.company, record))
    with ThreadPoolExecutor(order.at_once) as threads:
        sent = [threads.submit(_empty, left, order, stream.system, now) for _ in range(order.at_once)]
    return sum((one.result() for one in sent), Counter())


def _body(stream: Stream, company: str, record: Record) -> bytes:
    system = all_systems()[stream.system]
    changed: Any = record
    for name in stream.source_timestamp.split("/"):
        changed = changed[name]
    return msgspec.json.encode(
        {
            "event": "data.changed",
            "id": str(uuid.uuid4()),
            "tenant": credential(system, system.tenant, company),
            "stream": stream.name.removeprefix(f"{system.name}_"),
            "updatedAt": changed,
        }
    )


def _empty(left: SimpleQueue[bytes], order: Order, system: str, now: Callable[[], float]) -> Counter[str]:
    """Send what is left, over one connection as long as it lasts."""
    target = urlsplit(order.url)
    secret = credential(all_systems()[system], "webhook_secret", order.company)
    outcomes: Counter[str] = Counter()
    with closing(http.client.HTTPConnection("127.0.0.1", target.port, timeout=_TIMEOUT_S)) as connection:
        while True:
            try:
                body = left.get_nowait()
            except Empty:
                return outcomes
            headers = sign(system, secret, body, datetime.fromtimestamp(now(), UTC))
            try:
                connection.request("POST", target.path, body, {"Content-Type": "application/json", **headers})
                answer = connection.getresponse()
                answer.read()
                outcomes[str(answer.status)] += 1
            except (OSError, http.client.HTTPException):
                connection.close()
                outcomes["no answer"] += 1
