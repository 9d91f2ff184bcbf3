"""How fast it is, beside dlt and a bare floor, in one run: `make bench` writes `docs/benchmarks.json`.

`measures.py` says what is measured, `places.py` where it runs, `ours.py` is the product in a process of its own,
`contestants/` are the others, `report.py` the table and the file.
"""
