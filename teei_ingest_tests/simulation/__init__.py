"""How it does at many companies and years: `make simulation` writes `docs/simulation.json`.

A company's days are fetched for real, then multiplied: the events into the tables (`tables.py`), Dagster's record of
them into its database (`history.py`). What is measured then (`measures.py`) are the programs themselves, each in a
process of its own. Does not belong here: how fast records are read (`bench/`).
"""
