"""A second server for the seven systems and an oracle for the tables, written from the wire documents alone.

Nothing here imports the product or its sandbox, so that it cannot be wrong in the same way.
"""
