"""What operations watch: figures by connector and company, from what is recorded, so that a restart changes none.

Belongs here: which metrics there are (`catalog.py`), how runs are counted (`totals.py`), where the others come from
(`figures.py`). Does not belong here: Dagster (`defs/observed.py`), HTTP and Prometheus' format (`gateway/metrics.py`).
"""
