"""`teei gateway`: the HTTP interface."""

from __future__ import annotations

from typing import Annotated

import typer

PORT = 3007


def gateway(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = PORT,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Beyond loopback there has to be a proxy in front that speaks TLS."),
    ] = "127.0.0.1",
) -> None:
    """Serve the HTTP interface: start runs, ask how they went and whether the systems are well. Until Ctrl-C.

    Whoever calls needs a token: `teei token create`. Runs that go on when it ends go on; the next gateway of the same
    home tells how they went. docs/gateway.md has the routes, with examples.

        TOKEN=$(teei token create --company acme-corp --scope ingest)
        teei gateway &
        curl -H "Authorization: Bearer $TOKEN" http://localhost:3007/integrations/health
    """
    from teei_ingest.cli import home
    from teei_ingest.cli.output import OK, err, line
    from teei_ingest.companies import load_companies
    from teei_ingest.gateway.server import serve

    settings = home.settle()
    load_companies(settings)
    home.prepare_dagster_home(settings)
    with err().status("loading Dagster") as status:

        def ready(url: str) -> None:
            status.stop()
            line(OK, "gateway", url)

        serve(settings, host, port, ready)
