"""What we are measured against: scripts without an import of ours, run in an environment of their own.

Each takes an order on standard input as JSON (`url`, `params`, `headers`, `records`: the key of the list, `more`: the
dotted path of the flag that says whether there are more pages, `each`: a key that every record has once, `folder`: an
empty one for the output) and prints `records`, `seconds`, `cpu_s` (of all threads), `peak_mb` as JSON. The clock starts
after the imports.
"""
