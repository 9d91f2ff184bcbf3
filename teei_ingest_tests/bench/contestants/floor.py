"""The floor: requests, orjson, pyarrow, one thread, nothing else. No checks, no redaction, no ids.

Not slowed down on purpose: one session that keeps its connection and does not look for proxies at each request, one
table for about 10,000 records, one file.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import orjson  # type: ignore[import-not-found]
import pyarrow as pa
import pyarrow.parquet as pq
import requests

BATCH = 10_000


def main() -> None:
    """Read all pages into one Parquet file."""
    order = json.load(sys.stdin)
    path = Path(order["folder"]) / "records.parquet"
    parent, _, flag = order["more"].rpartition(".")
    begun, used = time.perf_counter(), time.process_time()
    session = requests.Session()
    session.trust_env = False
    session.headers.update(order["headers"])
    writer: pq.ParquetWriter | None = None
    waiting: list[dict[str, Any]] = []
    records, number, more = 0, 0, True
    while more:
        number += 1
        response = session.get(order["url"], params={**order["params"], "page": number})
        response.raise_for_status()
        page = orjson.loads(response.content)
        waiting += page[order["records"]]
        more = (page[parent] if parent else page)[flag]
        if len(waiting) >= BATCH or not more:
            table = pa.Table.from_pylist(waiting, writer.schema if writer else None)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            records += len(waiting)
            waiting = []
    if writer:
        writer.close()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    assert pq.read_metadata(path).num_rows == records
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"records": records, "seconds": seconds, "cpu_s": cpu, "peak_mb": peak}))


if __name__ == "__main__":
    main()
