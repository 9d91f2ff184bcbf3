"""Reading the source systems over HTTP: bytes in, decoded pages out.

Belongs here: authentication, quotas, retries, paging, windows, and which error a reply means. Does not belong
here: what a record means (`mapping/`), which systems and streams there are (`systems/`, `streams/`).
"""
