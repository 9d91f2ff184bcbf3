"""The seven source systems, played by one process over their documented wire formats.

Belongs here: everything that pretends. Nothing outside this folder may know that it is talking to it, except
for the commands that start it (`server.running`, `server.serve`). Its records are invented.
"""
