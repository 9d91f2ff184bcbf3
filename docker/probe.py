"""Exit code 0 if a server answers: `probe.py http://127.0.0.1:3000/server_info`, `probe.py grpc://127.0.0.1:4266`.

For the containers' health checks. `dagster api grpc-health-check` does the latter, too, but loads Dagster each time,
which is two seconds of a processor.
"""

import sys
import urllib.request
from urllib.parse import urlsplit

_PATIENCE_S = 8


def answers(url: str) -> bool:
    """Whether an HTTP server answers 200, or a gRPC server that it serves. Raises what the libraries raise."""
    address = urlsplit(url)
    if address.scheme == "http":
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=_PATIENCE_S) as reply:
            return bool(reply.status == 200)
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address.netloc, [("grpc.enable_http_proxy", 0)]) as channel:
        asked = health_pb2.HealthCheckRequest(service="DagsterApi")
        reply = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=_PATIENCE_S)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(not answers(sys.argv[1]))
