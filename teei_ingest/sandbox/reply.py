"""What goes back to a request, and how its bytes go out.

Belongs here: the reply as one value, and the socket where a reply is cut, held back or slowed down. Does not belong
here: what a reply says (`app.py`), when it is disturbed (`faults/`).
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

Headers = tuple[tuple[bytes, bytes], ...]

_TICK_S = 0.05  # of a slow body


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a reply goes out that does not go out as it should; the connection ends with it.

    `stop` is how much of the body is sent: a share from 0 to 1, or None where not even the head is. What follows is
    an orderly end (`close`), a reset, or silence until the client hangs up (`hang`). `rate` is in bytes a second, 0
    for all at once. `pieces` are sent in place of the body, which is then never held as a whole.
    """

    framing: Literal["length", "chunked", "none"] = "length"
    stop: float | None = 1.0
    then: Literal["close", "reset", "hang"] = "close"
    rate: float = 0
    pieces: Callable[[], Iterable[bytes]] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: one value, so that whatever disturbs an answer has one place to do it."""

    status: int
    headers: Headers
    body: bytes
    delivery: Delivery | None = None

    def header(self, name: bytes) -> bytes | None:
        """The value of a header."""
        return dict(self.headers).get(name)

    def but(self, *headers: tuple[bytes, bytes]) -> Headers:
        """Its headers with these in place of those of the same name."""
        names = {name for name, _ in headers}
        return (*(one for one in self.headers if one[0] not in names), *headers)


async def send_reply(reply: Reply, transport: Any, receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Write a reply to the connection's transport as its delivery says, and end the connection."""
    delivery = reply.delivery or Delivery()
    if delivery.stop is not None:
        transport.write(_head(reply, delivery))
        for piece in _body(reply, delivery, delivery.stop):
            if transport.is_closing():
                break
            if delivery.rate:
                await _slowly(transport, piece, delivery.rate)
            else:
                transport.write(piece)
                while transport.get_write_buffer_size() > 1 << 20 and not transport.is_closing():
                    await asyncio.sleep(0.001)
    if delivery.then == "close":
        transport.close()
    elif delivery.then == "reset":
        # What was written must be on its way, or the reset takes it back.
        while delivery.stop is not None and transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(0.001)
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def _head(reply: Reply, delivery: Delivery) -> bytes:
    framing: Headers = ()
    if delivery.framing == "length" and delivery.pieces is None:
        framing = ((b"content-length", str(len(reply.body)).encode()),)
    elif delivery.framing == "chunked":
        framing = ((b"transfer-encoding", b"chunked"),)
    phrase = HTTPStatus(reply.status).phrase.encode()
    lines = [b"HTTP/1.1 %d %s" % (reply.status, phrase)]
    lines += [b"%s: %s" % one for one in (*reply.headers, *framing, (b"connection", b"close"))]
    return b"\r\n".join((*lines, b"", b""))


def _body(reply: Reply, delivery: Delivery, share: float) -> Iterator[bytes]:
    if delivery.pieces is not None:
        yield from delivery.pieces()
        return
    body = reply.body[: int(len(reply.body) * share)]
    if delivery.framing != "chunked":
        yield body
        return
    # A chunk that is announced whole and breaks off would look the same; here the last chunk is what is missing.
    if body:
        yield b"%x\r\n%s\r\n" % (len(body), body)
    if share == 1:
        yield b"0\r\n\r\n"


async def _slowly(transport: Any, piece: bytes, rate: float) -> None:
    step = max(1, int(rate * _TICK_S))
    for at in range(0, len(piece), step):
        if transport.is_closing():
            return
        transport.write(piece[at : at + step])
        await asyncio.sleep(step / rate)
