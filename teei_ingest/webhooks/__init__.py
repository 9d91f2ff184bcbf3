"""What the external systems tell us unasked: that some data of a company changed on some day.

Belongs here: who really sent it, what it says, keeping it until its run was asked for. Does not belong here: HTTP
(`gateway/webhooks.py`), asking for runs (`defs/webhooks.py`).
"""
