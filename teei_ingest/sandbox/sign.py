"""Signatures of the webhooks that Benevity, Goodera and Workday send.

Belongs here: what a sender puts into the headers. Does not belong here: sending, and checking.
"""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

SENDERS = ("benevity", "goodera", "workday")


def sign(system: str, secret: str, body: bytes, now: datetime) -> dict[str, str]:
    """The headers by which `system` signs `body` at the aware time `now`.

    HMAC-SHA-256 over time and body with the company's webhook secret. Raises ValueError for a system that
    sends no webhooks.
    """
    seconds = str(int(now.timestamp()))
    if system == "benevity":
        return {"X-Benevity-Signature": f"t={seconds},v1={_mac(secret, seconds, b'.', body).hex()}"}
    if system == "goodera":
        return {
            "X-Goodera-Signature": f"sha256={_mac(secret, seconds, b'.', body).hex()}",
            "X-Goodera-Request-Timestamp": seconds,
        }
    if system == "workday":
        moment = now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return {
            "X-Workday-Signature": base64.b64encode(_mac(secret, moment, b":", body)).decode(),
            "X-Workday-Request-Timestamp": moment,
        }
    raise ValueError(f"{system} sends no webhooks")


def _mac(secret: str, moment: str, separator: bytes, body: bytes) -> bytes:
    return hmac.digest(secret.encode(), moment.encode() + separator + body, hashlib.sha256)
