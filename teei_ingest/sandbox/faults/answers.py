"""Faults of status and head: errors, waits that are asked for, credentials, redirects, the clock.

Does not belong here: bytes and sockets (`wire.py`), what a list holds (`pages.py`, `rows.py`).
"""

from dataclasses import replace
from email.utils import formatdate
from random import Random
from typing import Any

import msgspec

from teei_ingest.sandbox.faults.base import At, Call, Fault, Heals, Parameter, with_tokens
from teei_ingest.sandbox.reply import Delivery, Reply
from teei_ingest.streams.base import Stream
from teei_ingest.systems import all_systems

_ALL = (At.LIST, At.TOKEN, At.HEALTH)
_ABSURD = "-soon, or 31 Feb"
_SECONDS = {"seconds": Parameter(1, "how long", high=10**9)}
_ERROR = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    408: "timeout",
    429: "rate_limited",
}


def _status(code: int) -> Any:
    def act(call: Call, reply: Reply, rng: Random) -> Reply:
        return _error(call, reply, code)

    return act


def _error(call: Call, reply: Reply, code: int, *headers: tuple[bytes, bytes]) -> Reply:
    body = {"error": _ERROR.get(code, "unavailable"), "message": "this is a fault of the plan"}
    kept = reply.but((b"content-type", b"application/json"), *headers)
    return replace(reply, status=code, headers=kept, body=msgspec.json.encode(body))


def _wait(code: int, write: Any) -> Any:
    def act(call: Call, reply: Reply, rng: Random, **parameters: float) -> Reply:
        return _error(call, reply, code, (b"retry-after", write(call, **parameters).encode()))

    return act


def _date(call: Call, seconds: float) -> str:
    return formatdate(call.sandbox.now() + seconds, usegmt=True)


def _has_api_key(stream: Stream) -> Heals | None:
    return None if with_tokens(all_systems()[stream.system], stream) else Heals.FAILS


def _waits(code: int) -> list[Fault]:
    name = f"status-{code}"
    error = "rate_limited" if code == 429 else "source_down"
    return [
        Fault(
            f"{name}-seconds",
            f"Status {code} with `Retry-After` in seconds.",
            Heals.RETRIED,
            _wait(code, lambda call, seconds: str(seconds)),
            _SECONDS,
            places=_ALL,
        ),
        Fault(
            f"{name}-date",
            f"Status {code} with `Retry-After` as an HTTP date, some seconds ahead.",
            Heals.RETRIED,
            _wait(code, _date),
            {"seconds": Parameter(2, "how far ahead the date is", high=10**9)},
            places=_ALL,
        ),
        Fault(
            f"{name}-absurd",
            f"Status {code} with a `Retry-After` that is neither a number nor a date.",
            Heals.RETRIED,
            _wait(code, lambda call: _ABSURD),
            places=_ALL,
        ),
        Fault(
            f"{name}-far",
            f"Status {code} with a `Retry-After` far beyond any patience.",
            Heals.FAILS,
            _wait(code, lambda call, seconds: str(seconds)),
            {"seconds": Parameter(31_536_000, "how long", high=10**9)},
            places=_ALL,
            error=error,
        ),
    ]


def _expire(call: Call, reply: Reply, rng: Random) -> Reply | None:
    if call.company is None:
        return None
    call.sandbox.access.revoke(call.system, call.company)
    return _error(call, reply, 401)


def _revoke(call: Call, reply: Reply, rng: Random) -> Reply | None:
    if call.company is None:
        return None
    call.sandbox.access.revoke(call.system, call.company)
    return reply


def _rotate(call: Call, reply: Reply, rng: Random) -> Reply | None:
    if call.company is None or not call.sandbox.access.rotate(call.system, call.company):
        return None
    return _error(call, reply, 401)


def _lifetime(call: Call, reply: Reply, rng: Random, seconds: int) -> Reply | None:
    if reply.status != 200:
        return None
    token = msgspec.json.decode(reply.body)
    return replace(reply, body=msgspec.json.encode(token | {"expires_in": seconds}))


def _redirect(status: int, where: Any) -> Any:
    def act(call: Call, reply: Reply, rng: Random) -> Reply:
        headers = reply.but((b"location", where(call).encode()))
        return replace(reply, status=status, headers=headers, body=b"")

    return act


def _used_up(call: Call, reply: Reply, rng: Random, seconds: int) -> Reply:
    used = ((b"x-ratelimit-limit", b"100"), (b"x-ratelimit-remaining", b"0"))
    return replace(reply, headers=reply.but(*used, (b"x-ratelimit-reset", str(seconds).encode())))


def _clock(call: Call, reply: Reply, rng: Random, seconds: int) -> Reply:
    call.sandbox.skew = seconds
    said = replace(reply, headers=reply.but((b"date", formatdate(call.sandbox.now(), usegmt=True).encode())))
    if call.at is At.TOKEN and reply.status == 200:
        token = msgspec.json.decode(reply.body)
        lifetime = max(1, token["expires_in"] + seconds)
        said = replace(said, body=msgspec.json.encode(token | {"expires_in": lifetime}))
    return replace(said, delivery=said.delivery or Delivery())


ANSWERS = (
    Fault("status-400", "Status 400.", Heals.FAILS, _status(400), places=_ALL),
    Fault(
        "status-401",
        "Status 401, though the credentials are right.",
        Heals.RETRIED,
        _status(401),
        places=_ALL,
        elsewhere=_has_api_key,
        error="bad_credentials",
    ),
    Fault("status-403", "Status 403.", Heals.FAILS, _status(403), places=_ALL, error="not_allowed"),
    Fault("status-404", "Status 404.", Heals.FAILS, _status(404), places=_ALL),
    Fault("status-408", "Status 408.", Heals.RETRIED, _status(408), places=_ALL),
    Fault("status-429", "Status 429 without `Retry-After`.", Heals.RETRIED, _status(429), places=_ALL),
    *_waits(429),
    Fault("status-500", "Status 500.", Heals.RETRIED, _status(500), places=_ALL),
    Fault("status-502", "Status 502.", Heals.RETRIED, _status(502), places=_ALL),
    Fault("status-503", "Status 503 without `Retry-After`.", Heals.RETRIED, _status(503), places=_ALL),
    *_waits(503),
    Fault("status-504", "Status 504.", Heals.RETRIED, _status(504), places=_ALL),
    Fault(
        "quota-used-up",
        "A good reply that says `X-RateLimit-Remaining: 0`, with the seconds until that ends.",
        Heals.KEPT,
        _used_up,
        {"seconds": Parameter(2, "what X-RateLimit-Reset says", high=10**9)},
        page=True,
    ),
    Fault(
        "token-expired",
        "Status 401: the token has expired.",
        Heals.RETRIED,
        _expire,
        applies_to=with_tokens,
    ),
    Fault(
        "token-revoked",
        "A good reply, behind which all tokens of the company are revoked.",
        Heals.RETRIED,
        _revoke,
        page=True,
        applies_to=with_tokens,
    ),
    Fault(
        "token-useless",
        "Every token is refused with status 401, however new it is.",
        Heals.FAILS,
        _status(401),
        lasting=True,
        applies_to=with_tokens,
        error="bad_credentials",
    ),
    Fault(
        "token-endpoint-down",
        "The token endpoint answers with status 503.",
        Heals.RETRIED,
        _status(503),
        places=(At.TOKEN,),
        applies_to=with_tokens,
    ),
    Fault(
        "token-refused",
        "The token endpoint answers with status 401: unknown client or wrong secret.",
        Heals.FAILS,
        _status(401),
        places=(At.TOKEN,),
        applies_to=with_tokens,
        error="bad_credentials",
    ),
    Fault(
        "token-short-lived",
        "A token that says it is good for a second.",
        Heals.KEPT,
        _lifetime,
        {"seconds": Parameter(1, "what expires_in says", low=-(10**9), high=10**9)},
        places=(At.TOKEN,),
        applies_to=with_tokens,
    ),
    Fault(
        "credentials-rotated",
        "The company's secret or key is replaced, and its tokens are revoked; the old one is refused from then on.",
        Heals.FAILS,
        _rotate,
        error="bad_credentials",
    ),
    Fault(
        "redirect-host",
        "A redirect to another host.",
        Heals.FAILS,
        _redirect(302, lambda call: f"http://elsewhere.example{call.target}"),
        places=(At.LIST, At.HEALTH),
    ),
    Fault(
        "redirect-loop",
        "Redirects to the same address without end.",
        Heals.FAILS,
        _redirect(302, lambda call: call.target),
        places=(At.LIST, At.HEALTH),
        lasting=True,
    ),
    Fault(
        "redirect-here",
        "A redirect on the same host, to where the answer is.",
        Heals.KEPT,
        _redirect(307, lambda call: f"http://{call.host}{call.target}"),
        places=(At.LIST, At.HEALTH),
    ),
    Fault(
        "clock-off",
        "The source's clock is off: `Date`, `Retry-After`, what is new, and how long its tokens say they are good.",
        Heals.KEPT,
        _clock,
        {"seconds": Parameter(300, "how far it is ahead", low=-86_400, high=86_400)},
        places=_ALL,
        lasting=True,
    ),
)
