"""Addresses that secrets are sent to.

Belongs here: what is wrong with one. Does not belong here: asking it.
"""

import ipaddress
import re
from urllib.parse import urlsplit

_HOST = r"[a-z0-9._-]+|[0-9a-f:.]+"


def url_problem(url: str, plaintext_hosts: tuple[str, ...]) -> str:
    """Why nothing secret may go there, behind the variable's name; empty if it may."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not re.fullmatch(_HOST, host) or " " in url:
        return "has to be a URL that begins with https://"
    if parts.username is not None or parts.password is not None:
        return "must not have a user or password in it"
    if "?" in url or "#" in url:
        return "must not have a query or fragment"
    if parts.scheme == "http" and not _is_loopback(host) and host not in plaintext_hosts:
        return "has to begin with https://, or its host be named in TEEI_PLAINTEXT_HOSTS"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
