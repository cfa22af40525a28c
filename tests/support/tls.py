"""A certificate of loopback for servers of tests; nobody trusts it who is not told to.

Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes
-days 3650 -subj "/CN=loopback of the tests"` with `-addext` for
`subjectAltName=IP:127.0.0.1,DNS:localhost`, `basicConstraints=critical,CA:TRUE` and
`keyUsage=critical,digitalSignature,keyCertSign`; it is good until November 2036.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlencode, urlsplit

_FILE = Path(__file__).with_name("loopback.pem")


def context() -> ssl.SSLContext:
    """What a server of a test speaks TLS with."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(_FILE)
    return made


def trusted(url: str) -> str:
    """The URL over TLS, for clients that trust such a server."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"ssl_ca_certs": _FILE}))))
    return parts._replace(scheme="rediss", query=query).geturl()
