"""From the wire to the contract: what a stream declares, carried out.

Two ways with equal results: whole batches through types generated from the contract (`plan`, `decode`, `columns`),
and single records through Pydantic (`record`), which alone decides about what the first way refuses.
"""
