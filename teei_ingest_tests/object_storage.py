"""An S3 server of a test's own, and a front before it that fails as it is told.

Belongs here: the server (SeaweedFS), its buckets, the front. Does not belong here: what is stored in them.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from teei_ingest_tests.dagster_parts import BIN, free_port, process
from teei_ingest_tests.loopback import Handler, listening
from teei_ingest_tests.together import eventually

KEY, SECRET, REGION = "test-key", "a secret of the tests", "us-east-1"
_IDENTITIES = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}
# Alone, on loopback; it reports to its makers otherwise.
_COMMAND = (
    "-logtostderr server -filer -s3 -ip 127.0.0.1 -ip.bind 127.0.0.1 -master.telemetry=false "
    "-s3.autoCreateBucket=false -s3.port.iceberg 0 -s3.port.lance 0 -master.volumeSizeLimitMB 64 -volume.max 1000"
)
_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "date", "server", "keep-alive")

# What becomes of a request: "pass" on; "refuse" (503); "lose": pass it on and answer 503; "cut": the connection ends in
# the middle of what is sent; "hang up": pass it on and end the connection; "half": in the middle of the answer; "late":
# pass it on and have the client wait until it hangs up; "expired", "skewed": what S3 says then.
Fault = Callable[["Request"], str]
_SAYS = {
    "refuse": (503, "SlowDown", "Please reduce your request rate."),
    "lose": (503, "ServiceUnavailable", "Please try again."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "skewed": (
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    ),
}


@dataclass(frozen=True)
class Request:
    """One request: `path` is /bucket/key, `query` as it was sent."""

    method: str
    path: str
    query: str

    @property
    def commits(self) -> bool:
        """Whether it puts a version of a table."""
        return self.method == "PUT" and "/_delta_log/" in self.path and self.path.endswith(".json")


@dataclass
class S3:
    """A server. `url` is scheme and host."""

    url: str

    def variables(self, url: str = "") -> dict[str, str]:
        """What a deployment sets to use it, by way of `url`."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": url or self.url,
        }

    def files(self) -> pafs.S3FileSystem:
        """Everything in it, by Arrow, which is told nothing of ours."""
        place = urlsplit(self.url)
        return pafs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            region=REGION,
            scheme=place.scheme,
            endpoint_override=place.netloc,
            allow_bucket_creation=True,
        )

    def make(self, bucket: str) -> str:
        """Make a bucket; its URI."""
        self.files().create_dir(bucket)
        return f"s3://{bucket}"

    def keys(self, bucket: str) -> list[str]:
        """All objects of a bucket, without its name."""
        found = self.files().get_file_info(pafs.FileSelector(bucket, recursive=True))
        return sorted(one.path.removeprefix(f"{bucket}/") for one in found if one.type is pafs.FileType.File)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """A server with its data below `folder`, on loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    identities = folder / "identities.json"
    identities.write_text(json.dumps(_IDENTITIES))
    data = folder / "data"
    data.mkdir(exist_ok=True)
    ports = {
        f"-{name}port{kind}": free_port() for name in ("master.", "volume.", "filer.", "s3.") for kind in ("", ".grpc")
    }
    command = [str(BIN / "weed"), *_COMMAND.split(), "-dir", str(data), "-s3.config", str(identities)]
    command += [part for name, port in ports.items() for part in (name, str(port))]
    url = f"http://127.0.0.1:{ports['-s3.port']}"
    with process(command, folder / "server.log", env={}, cwd=folder) as started:
        try:
            made = S3(url)
            eventually(lambda: _writes(made), "the S3 server takes an object", 60)
            yield made
        finally:
            started.kill()  # asked to end, it takes its time
            started.wait()
            for left in Path("/tmp").glob("seaweedfs-*.sock"):
                if left.stem.rpartition("-")[2] in map(str, ports.values()):
                    left.unlink()


def _writes(server: S3) -> bool:
    with suppress(OSError):
        with server.files().open_output_stream(f"{server.make('is-it-there').removeprefix('s3://')}/one") as file:
            file.write(b"1")
        return True
    return False


@dataclass
class Front:
    """A server that passes on to another one, unless `fault` says what else becomes of a request.

    `passed` is told of a request that was carried out, before it is answered.
    """

    url: str
    fault: Fault
    passed: Callable[[Request], None] = lambda request: None
    seen: list[Request] = field(default_factory=list)


@contextmanager
def front(upstream: str, fault: Fault = lambda request: "pass") -> Iterator[Front]:
    """A front of `upstream` (scheme and host), on a loopback port of its own.

    Whoever holds Python's lock while waiting for an answer has to be in another process.
    """
    target = urlsplit(upstream)

    class Answers(Handler):
        def _pass_on(self) -> None:
            path, _, query = self.path.partition("?")
            request = Request(self.command, path, query)
            through.seen.append(request)
            fault = through.fault(request)
            if fault == "cut":
                self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
                self._hang_up()
                return
            sent = self._sent()
            status, headers, body = 0, list[tuple[str, str]](), b""
            if fault in ("pass", "lose", "hang up", "half", "late"):
                status, headers, body = self._ask(sent)
                through.passed(request)
            if fault == "late":
                select.select([self.connection], [], [], 60)
            if fault in ("hang up", "late") or (fault == "half" and not body):
                self._hang_up()
                return
            if fault in _SAYS:
                status, code, message = _SAYS[fault]
                body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
                headers = [("Content-Type", "application/xml")]
            self.send_response_only(status)
            length = str(len(body))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            if fault == "half":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self._hang_up()
            elif self.command != "HEAD":
                self.wfile.write(body)

        def _sent(self) -> bytes:
            if "Transfer-Encoding" not in self.headers:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _ask(self, sent: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            # The signature is over the host that the client knows.
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            try:
                chunked = "Transfer-Encoding" in self.headers
                connection.request(self.command, self.path, sent or None, kept, encode_chunked=chunked)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def _hang_up(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    with listening(Answers) as url:
        through = Front(url, fault)
        yield through
