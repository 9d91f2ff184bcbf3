"""dlt: its `rest_api` source into its filesystem destination as Parquet, with the paging that the API declares.

As it comes, workers included. No checks beyond its own schema inference, no redaction, no incremental state.
"""

import json
import resource
import sys
import time

import dlt  # type: ignore[import-not-found]
from dlt.destinations import filesystem  # type: ignore[import-not-found]
from dlt.sources.rest_api import rest_api_source  # type: ignore[import-not-found]


def main() -> None:
    """Run one pipeline from nothing."""
    order = json.load(sys.stdin)
    begun, used = time.perf_counter(), time.process_time()
    base, _, path = order["url"].partition("/api/")
    source = rest_api_source(
        {
            "client": {
                "base_url": f"{base}/api/",
                "headers": order["headers"],
                "paginator": {
                    "type": "page_number",
                    "base_page": 1,
                    "page_param": "page",
                    "total_path": None,
                    "has_more_path": order["more"],
                },
            },
            "resources": [
                {
                    "name": "volunteers",
                    "endpoint": {"path": path, "params": order["params"], "data_selector": order["records"]},
                }
            ],
        }
    )
    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=f"{order['folder']}/pipelines",
        destination=filesystem(bucket_url=f"file://{order['folder']}/parquet"),
        dataset_name="bench",
    )
    pipeline.run(source, loader_file_format="parquet").raise_on_failed_jobs()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    records = pipeline.last_trace.last_normalize_info.row_counts["volunteers"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"records": records, "seconds": seconds, "cpu_s": cpu, "peak_mb": peak}))


if __name__ == "__main__":
    main()
