"""What a client of TLS is given where TLS goes wrong: a handshake with a certificate that it must not trust.

Belongs here: the certificates, the handshake. Does not belong here: HTTP, which never comes to it.
"""

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HANDSHAKE = 0x16  # the type of a TLS record with a ClientHello


class Untrusted:
    """The server's side of one connection, up to the end of the handshake."""

    def __init__(self, certificate: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _context(certificate).wrap_bio(self._in, self._out, server_side=True)

    @staticmethod
    def speaks(data: bytes) -> bool:
        """Whether the first bytes of a connection are TLS."""
        return data[:1] == bytes([_HANDSHAKE])

    def answer(self, transport: Any, data: bytes) -> None:
        """Go on with the handshake; whoever completes it, or breaks it off, is hung up on."""
        self._in.write(data)
        ended = True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            ended = False
        except ssl.SSLError:
            pass
        transport.write(self._out.read())
        if ended:
            transport.close()


@cache
def _context(certificate: str) -> ssl.SSLContext:
    """Self-signed for 127.0.0.1 and valid; or expired; or for another host."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox")])
    host = "elsewhere.example" if certificate == "other-host" else "localhost"
    now = datetime.now(UTC)
    end = now + timedelta(days=-1 if certificate == "expired" else 1)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=9), end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sandbox.pem")
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + made.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(path)
    return context
