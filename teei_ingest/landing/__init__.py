"""Sealed files: what a stream materialized alone leaves for its events, and the quarantine."""
