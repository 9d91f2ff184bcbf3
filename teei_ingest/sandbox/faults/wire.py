"""Faults of the connection and of the body's bytes: silence, resets, cuts, encodings.

Does not belong here: what a list holds (`pages.py`, `rows.py`).
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

from teei_ingest.sandbox.faults.base import At, Call, Fault, Heals, Parameter
from teei_ingest.sandbox.reply import Delivery, Reply

_ALL = (At.LIST, At.TOKEN, At.HEALTH)
_BOM = b"\xef\xbb\xbf"
_MIB = 1 << 20
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952: deflated, no time, unknown system
_HTML = b"<!doctype html><html><head><title>Sign in</title></head><body><form>Please sign in.</form></body></html>"


def _delivered(delivery: Delivery) -> Callable[..., Reply]:
    def act(call: Call, reply: Reply, rng: Random) -> Reply:
        return replace(reply, delivery=delivery)

    return act


def _cut(delivery: Delivery) -> Callable[..., Reply]:
    def act(call: Call, reply: Reply, rng: Random, share: float) -> Reply:
        return replace(reply, delivery=replace(delivery, stop=share))

    return act


def _slow(call: Call, reply: Reply, rng: Random, bytes_per_s: int) -> Reply:
    return replace(reply, delivery=Delivery(rate=bytes_per_s))


def _instead(body: bytes, content_type: bytes) -> Callable[..., Reply]:
    def act(call: Call, reply: Reply, rng: Random) -> Reply:
        return replace(reply, status=200, headers=reply.but((b"content-type", content_type)), body=body)

    return act


def _charset(call: Call, reply: Reply, rng: Random, charset: str) -> Reply:
    """Latin-1 cannot say everything; what it cannot, and one more letter, becomes one that is no UTF-8."""
    text = reply.body.decode()
    if charset == "latin-1":
        text = text.replace('{"', '{"\u00e9": null, "', 1)
    body = text.encode(charset, "replace")
    return replace(reply, headers=_typed(reply, charset), body=body)


def _mislabelled(call: Call, reply: Reply, rng: Random) -> Reply:
    return replace(reply, headers=_typed(reply, "iso-8859-1"))


def _typed(reply: Reply, charset: str) -> Any:
    kind = (reply.header(b"content-type") or b"application/json").partition(b";")[0]
    return reply.but((b"content-type", kind + b"; charset=" + charset.encode()))


def _bom(call: Call, reply: Reply, rng: Random) -> Reply:
    return replace(reply, body=_BOM + reply.body)


def _zipped(reply: Reply, body: bytes) -> Reply:
    return replace(reply, headers=reply.but((b"content-encoding", b"gzip")), body=body)


def _gzip(call: Call, reply: Reply, rng: Random) -> Reply:
    return _zipped(reply, gzip.compress(reply.body))


def _gzip_broken(call: Call, reply: Reply, rng: Random) -> Reply:
    """One byte in the middle of the stream is another."""
    body = bytearray(gzip.compress(reply.body))
    body[10 + (len(body) - 18) // 2] ^= 0xFF
    return _zipped(reply, bytes(body))


def _gzip_cut(call: Call, reply: Reply, rng: Random) -> Reply:
    body = gzip.compress(reply.body)
    return _zipped(reply, body[: len(body) // 2])


def _gzip_plain(call: Call, reply: Reply, rng: Random) -> Reply:
    return _zipped(reply, reply.body)


def _gzip_bomb(call: Call, reply: Reply, rng: Random, mib: int) -> Reply:
    """Blanks inside of the object, the same compressed megabyte again and again, so that it never exists as a whole."""

    def pieces() -> Iterator[bytes]:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        first, blanks, last = reply.body[:1], b" " * _MIB, reply.body[1:]
        yield _GZIP_HEAD + packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
        again = packer.compress(blanks) + packer.flush(zlib.Z_FULL_FLUSH)
        checksum = zlib.crc32(first)
        for _ in range(mib):
            yield again
            checksum = zlib.crc32(blanks, checksum)
        checksum = zlib.crc32(last, checksum)
        size = (len(reply.body) + mib * _MIB) % (1 << 32)
        yield packer.compress(last) + packer.flush() + struct.pack("<II", checksum, size)

    return replace(_zipped(reply, b""), delivery=Delivery(framing="none", pieces=pieces))


_SHARE = {"share": Parameter(0.5, "how much of the body is sent", high=0.99)}

WIRE = (
    Fault(
        "timeout-head",
        "The request is taken, and nothing is answered.",
        Heals.RETRIED,
        _delivered(Delivery(stop=None, then="hang")),
        places=_ALL,
        error="source_down",
    ),
    Fault(
        "timeout-body",
        "The head and a part of the body come, then nothing more.",
        Heals.RETRIED,
        _cut(Delivery(then="hang")),
        _SHARE,
        places=_ALL,
        error="source_down",
    ),
    Fault(
        "hang-up",
        "The connection is closed without an answer.",
        Heals.RETRIED,
        _delivered(Delivery(stop=None)),
        places=_ALL,
    ),
    Fault(
        "reset",
        "The connection is reset without an answer.",
        Heals.RETRIED,
        _delivered(Delivery(stop=None, then="reset")),
        places=_ALL,
    ),
    Fault(
        "reset-body",
        "The connection is reset in the middle of the body.",
        Heals.RETRIED,
        _cut(Delivery(then="reset")),
        _SHARE,
        places=_ALL,
    ),
    Fault(
        "cut-body",
        "The connection ends in the middle of a body whose length was announced.",
        Heals.RETRIED,
        _cut(Delivery()),
        _SHARE,
        places=_ALL,
    ),
    Fault(
        "cut-body-chunked",
        "The connection ends in the middle of a chunked body.",
        Heals.RETRIED,
        _cut(Delivery(framing="chunked")),
        _SHARE,
        places=_ALL,
    ),
    Fault(
        "cut-body-unframed",
        "The connection ends in the middle of a body with neither a length nor chunks.",
        Heals.RETRIED,
        _cut(Delivery(framing="none")),
        _SHARE,
        places=_ALL,
    ),
    Fault(
        "unframed",
        "A whole body with neither a length nor chunks.",
        Heals.KEPT,
        _delivered(Delivery(framing="none")),
        places=_ALL,
    ),
    Fault(
        "slow",
        "The body comes so many bytes a second.",
        Heals.KEPT,
        _slow,
        {"bytes_per_s": Parameter(20_000, "how fast", low=1)},
        places=_ALL,
    ),
    Fault(
        "html",
        "Status 200 with a page to sign in.",
        Heals.FAILS,
        _instead(_HTML, b"text/html; charset=utf-8"),
        places=(At.LIST, At.TOKEN),
    ),
    Fault(
        "empty-body",
        "Status 200 with no body.",
        Heals.FAILS,
        _instead(b"", b"application/json"),
        places=(At.LIST, At.TOKEN),
    ),
    Fault(
        "wrong-charset",
        "JSON in another character set than UTF-8, which the head names.",
        Heals.FAILS,
        _charset,
        {"charset": Parameter("utf-16", "which", ("utf-16", "utf-16-le", "utf-32", "latin-1"))},
        page=True,
    ),
    Fault(
        "mislabelled-charset",
        "JSON in UTF-8 of which the head says that it is Latin-1.",
        Heals.KEPT,
        _mislabelled,
        page=True,
    ),
    Fault("byte-order-mark", "JSON behind a byte-order mark.", Heals.KEPT, _bom, page=True),
    Fault("gzip", "A gzipped body.", Heals.KEPT, _gzip, page=True),
    Fault("gzip-broken", "A gzipped body in which one byte is wrong.", Heals.RETRIED, _gzip_broken, page=True),
    Fault(
        "gzip-cut",
        "The first half of a gzipped body, with the length of that half.",
        Heals.RETRIED,
        _gzip_cut,
        page=True,
    ),
    Fault(
        "gzip-plain", "A plain body of which the head says that it is gzipped.", Heals.RETRIED, _gzip_plain, page=True
    ),
    Fault(
        "gzip-bomb",
        "A gzipped body of a megabyte that unpacks to a gigabyte.",
        Heals.FAILS,
        _gzip_bomb,
        {"mib": Parameter(1024, "what it unpacks to, in MiB", low=1)},
        page=True,
    ),
    Fault(
        "tls-failure",
        "Where TLS is spoken, a certificate that nobody has reason to trust; this address speaks no TLS otherwise.",
        Heals.FAILS,
        lambda call, reply, rng: None,
        {"certificate": Parameter("self-signed", "what is wrong with it", ("self-signed", "expired", "other-host"))},
        places=(At.CONNECTION,),
        error="source_down",
    ),
)
