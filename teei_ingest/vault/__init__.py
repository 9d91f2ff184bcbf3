"""Credentials of the source systems and the companies' keys; nothing that fetches or stores."""
