"""`teei gateway`: the HTTP interface of the seed service, with tokens.

Belongs here: routes, tokens, and calls that wait for their run, a module for each job. Does not belong here: Dagster
(`defs/` does what is asked of it, in a process of its own for each call), the seed's replies (`sync.py`), probes
(`health.py`), what is printed (`cli/`).
"""
