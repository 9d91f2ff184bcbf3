"""One run, in a process of its own: it loads Dagster, waits for its order on standard input, carries it out.

The end of standard input is the end of a worker that was not needed. How the run went is in Dagster's record.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import sys

from teei_ingest import logs
from teei_ingest.errors import TeeiError
from teei_ingest.gateway.orders import Order
from teei_ingest.interrupts import INTERRUPTED, raise_interrupts
from teei_ingest.settings import Settings

_GARBAGE = 20_000  # new objects before garbage is looked for, as in `teei`
_log = logging.getLogger("teei_ingest.gateway")


def main() -> int:
    """The process's exit code."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.set_threshold(_GARBAGE)
    from teei_ingest.defs.partitions import CORRELATION_TAG, PAGE_SIZE_TAG, TOKEN_TAG
    from teei_ingest.defs.run import run

    gc.freeze()  # what is loaded stays
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return 0
    told = json.loads(line)
    try:
        raise_interrupts()
        settings = Settings.load()
        logs.configure(settings.log_format, settings.log_level)
        order = Order.model_validate(told["order"])
        tags = {TOKEN_TAG: told["token"]}
        if told.get("correlation"):
            tags[CORRELATION_TAG] = told["correlation"]
        if order.page_size:
            tags[PAGE_SIZE_TAG] = f"{order.page_size}"
        run(order.request(), run_id=told["run_id"], tags=tags)
    except TeeiError as error:
        _log.error("run not carried out", extra={"run_id": told["run_id"], "problem": str(error)})
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    code = main()
    gc.freeze()  # what ends with the process need not be looked through
    sys.exit(code)
