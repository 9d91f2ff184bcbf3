"""`make chaos`: thousands of small syncs against the misbehaving sandbox, each judged to the value.

Belongs here: drawing cases, running them, judging what they left. Does not belong here: the faults themselves
(`teei_ingest/sandbox/faults/`), what the product does for each one alone (`test_faults.py`).
"""
