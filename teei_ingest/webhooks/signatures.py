"""Whether a system signed a delivery: HMAC-SHA-256 with a secret of the company, over a time and the body as it came.

Belongs here: reading the headers of Benevity, Goodera and Workday, and judging them. Does not belong here: whose secret
it is (`senders.py`), whether the delivery was there before (`deliveries.py`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from teei_ingest.contracts.fields import instant_ns

TOLERANCE_S = 300  # between the sender's clock and ours, either way
VALID_SECRETS = 2  # of a company at a time, while one takes the other's place

# What is asked of a delivery for which there is no secret, or no second one: nobody can have signed with it.
_NOBODYS = secrets.token_bytes(32)


class _Claim(NamedTuple):
    """What the headers say: when it was signed, in seconds since 1970, what comes before the body, the code."""

    moment: float
    before: bytes
    code: bytes


def refusal(system: str, headers: Mapping[str, str], body: bytes, keys: Sequence[str], now: float) -> str | None:
    """Why a delivery is not to be believed, for our own log alone; None if it is.

    `headers` finds names in lower case, `keys` are the secrets that are valid, `now` is in seconds since 1970. How long
    it takes depends on the length of the body alone, not on the code, nor on how many secrets there are.
    """
    claim = _CLAIMS[system](headers) if system in _CLAIMS else None
    if claim is None:
        return "it has no signature of this system"
    good = False
    for key in [*(key.encode() for key in keys), _NOBODYS, _NOBODYS][:VALID_SECRETS]:
        good |= hmac.compare_digest(hmac.digest(key, claim.before + body, hashlib.sha256), claim.code)
    if not good:
        return "no secret of a company with this tenant id gives its signature"
    if abs(now - claim.moment) > TOLERANCE_S:
        return f"it was signed {now - claim.moment:.0f} seconds ago by the sender's clock"
    return None


def _benevity(headers: Mapping[str, str]) -> _Claim | None:
    found = re.fullmatch(r"t=([0-9]{1,12}),v1=([0-9a-fA-F]{64})", headers.get("x-benevity-signature", ""))
    return _Claim(int(found[1]), f"{found[1]}.".encode(), bytes.fromhex(found[2])) if found else None


def _goodera(headers: Mapping[str, str]) -> _Claim | None:
    moment = re.fullmatch(r"[0-9]{1,12}", headers.get("x-goodera-request-timestamp", ""))
    code = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", headers.get("x-goodera-signature", ""))
    return _Claim(int(moment[0]), f"{moment[0]}.".encode(), bytes.fromhex(code[1])) if moment and code else None


def _workday(headers: Mapping[str, str]) -> _Claim | None:
    text = headers.get("x-workday-request-timestamp", "")
    code = re.fullmatch(r"[0-9A-Za-z+/]{43}=", headers.get("x-workday-signature", ""))
    if not code:
        return None
    try:
        return _Claim(instant_ns(text) / 1e9, f"{text}:".encode(), base64.b64decode(code[0]))
    except ValueError:
        return None


_CLAIMS: Mapping[str, Callable[[Mapping[str, str]], _Claim | None]] = {
    "benevity": _benevity,
    "goodera": _goodera,
    "workday": _workday,
}
# Of the systems that send webhooks, what vouches for one.
HEADERS = {
    "benevity": ("X-Benevity-Signature",),
    "goodera": ("X-Goodera-Signature", "X-Goodera-Request-Timestamp"),
    "workday": ("X-Workday-Signature", "X-Workday-Request-Timestamp"),
}
SYSTEMS = tuple(HEADERS)
