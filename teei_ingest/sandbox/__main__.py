"""The process that `server.running` starts."""

from teei_ingest.sandbox.server import child

if __name__ == "__main__":
    child()
