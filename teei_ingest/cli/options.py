"""Options that several commands have, spelt once."""

from __future__ import annotations

from typing import Annotated

import typer

from teei_ingest.cli.complete import company_slugs, stream_names

Slug = Annotated[str, typer.Option(metavar="SLUG", help="The company.", autocompletion=company_slugs)]
Streams = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A stream; may be given several times. Without it: all.", autocompletion=stream_names
    ),
]
First = Annotated[str | None, typer.Option("--from", metavar="DAY", help="First UTC day, YYYY-MM-DD.")]
Last = Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last UTC day, inclusive.")]
Why = Annotated[str, typer.Option(help="The reason, for the audit log; without a name in it.")]
