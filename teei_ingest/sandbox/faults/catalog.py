"""All faults by name."""

from teei_ingest.sandbox.faults.answers import ANSWERS
from teei_ingest.sandbox.faults.pages import PAGES
from teei_ingest.sandbox.faults.rows import ROWS
from teei_ingest.sandbox.faults.wire import WIRE

FAULTS = {fault.name: fault for fault in (*ANSWERS, *WIRE, *PAGES, *ROWS)}
