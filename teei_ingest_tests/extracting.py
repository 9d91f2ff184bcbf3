"""What the tests of `extract/` share: a server that answers as told, a certificate, pages, a clock moved by waiting."""

import ipaddress
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from teei_ingest.errors import SourceMisbehaves
from teei_ingest.settings import Settings
from teei_ingest.systems import all_systems
from teei_ingest.vault.credentials import SystemCredentials
from teei_ingest_tests.loopback import Handler, listening

MASTER_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@dataclass
class Ask:
    """A request that arrived."""

    method: str
    target: str
    headers: dict[str, str]
    form: dict[str, list[str]]
    connection: int

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass
class Answer:
    """`body` is sent as it stands; `length` lies about it, and -1 leaves it out; `wait` delays."""

    status: int = 200
    body: bytes = b'{"records": [], "hasMore": false}'
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    close: bool = False
    wait: threading.Event | None = None

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> "Answer":
        return cls(status, json.dumps(value).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


Script = Callable[[Ask], Answer | None]


@dataclass
class Server:
    """`asked` is what arrived, in order. An answer of None hangs up."""

    url: str
    asked: list[Ask]


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """A server on a loopback port of its own that answers with `script`."""
    asked: list[Ask] = []
    lock = threading.Lock()

    class Answers(Handler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            ask = Ask(self.command, self.path, headers, parse_qs(body.decode("latin-1")), self.client_address[1])
            with lock:
                asked.append(ask)
            answer = script(ask)
            self.close_connection = answer is None or answer.close
            if answer is None:
                return
            if answer.wait:
                answer.wait.wait(20)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Transfer-Encoding" not in answer.headers and answer.length != -1:
                self.send_header("Content-Length", str(answer.length or len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            self.wfile.flush()

        do_POST = do_GET

    with listening(Answers) as url:
        yield Server(url, asked)


def in_turn(*answers: Answer | None) -> Script:
    """Answers one after the other; the last one again and again."""
    left = list(answers)
    lock = threading.Lock()

    def script(ask: Ask) -> Answer | None:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return script


class Clock:
    """Seconds that pass only by sleeping; `slept` are the waits."""

    def __init__(self) -> None:
        self.now = 1_705_312_800.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float, cancel: threading.Event) -> None:
        self.pause(seconds)

    def pause(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def settings(home: Path, **variables: object) -> Settings:
    given = {"TEEI_HOME": str(home), "TEEI_MASTER_KEY": MASTER_KEY}
    return Settings.load(given | {name: str(value) for name, value in variables.items()})


def credentials(system: str, url: str, **more: str) -> SystemCredentials:
    given = {
        "client_id": "the-client",
        "client_secret": "the-secret",
        "api_key": "the-key",
        "tenant_id": "tenant 1&2",
        "project_id": "project+1",
        "company_id": "550e8400-e29b-41d4-a716-446655440000",
    }
    return SystemCredentials(system=system, company="acme-corp", base_url=url, **(given | more))


SYSTEMS = all_systems()


@dataclass
class FakePage:
    """A decoded page of `{"records": [[id, nanoseconds], …], …}`."""

    reply: dict[str, Any]
    size: int

    @property
    def records(self) -> list[Any]:
        return self.reply["records"]

    @property
    def count(self) -> int:
        return len(self.records)

    @property
    def more(self) -> Any:
        return self.reply.get("hasMore")

    @property
    def next(self) -> Any:
        return self.reply.get("next_cursor")

    @property
    def total(self) -> Any:
        return self.reply.get("totalResults")

    @property
    def fingerprint(self) -> int:
        return hash(json.dumps(self.records))

    @property
    def versions(self) -> list[tuple[str, str]]:
        return [(identity, str(moment)) for identity, moment in self.records]

    @property
    def last_timestamp_ns(self) -> int | None:
        return self.records[-1][1] if self.records else None


def decode(body: bytes) -> FakePage:
    reply = json.loads(body)
    if not isinstance(reply.get("records"), list):
        raise SourceMisbehaves("no list")
    return FakePage(reply, len(body))


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(pem))
    return path
