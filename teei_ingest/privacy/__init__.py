"""What a privacy officer does: see what is kept, erase, shred, rotate keys, change the policy, show an auditor.

Each module carries out one of these over the company's tables, sealed files and keys. Does not belong here: how a
value is redacted (`redact/`), how a table is purged (`store/`), anything of Dagster (`defs/`).
"""
