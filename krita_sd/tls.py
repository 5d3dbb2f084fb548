# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted connections to a server on another machine, whose certificate need not be known to anybody else.

An address may end in `#sha256=FINGERPRINT`, as the server prints it when it starts: then exactly this certificate is
trusted, whoever signed it. Without it the certificate has to be one that this machine trusts, for that host name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any
from urllib.parse import urlsplit

from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError

MARK = "sha256="


def fingerprint(der: bytes) -> str:
    """The SHA-256 of a certificate (DER), as 64 lower-case hex digits."""
    return hashlib.sha256(der).hexdigest()


def opened(uri: str, timeout: float) -> tuple[str, Any]:
    """What to connect to: the address without its fingerprint, and the `ssl.SSLContext` for it (None for ws://).

    timeout: seconds for looking at the certificate. Raises WireError, ValueError for an address that cannot be read,
    and OSError when nothing answers. Nothing secret is sent before the certificate has been checked.
    """
    address, _, pinned = uri.partition("#")
    if not address.startswith("wss://"):
        if pinned:
            raise ValueError("a fingerprint without encryption")
        return address, None
    import ssl  # not every Krita's Python has it, and loopback needs none

    if not pinned:
        return address, ssl.create_default_context()
    wanted = pinned.removeprefix(MARK).replace(":", "").lower()
    parts = urlsplit(address)
    if not pinned.startswith(MARK) or not re.fullmatch("[0-9a-f]{64}", wanted) or not parts.hostname:
        raise ValueError("not a fingerprint")
    pem = ssl.get_server_certificate((parts.hostname, parts.port or 443), timeout=timeout)
    der = ssl.PEM_cert_to_DER_cert(pem)
    if not hmac.compare_digest(fingerprint(der), wanted):
        raise WireError(
            Code.UNAUTHORIZED,
            tr("The server shows another certificate than the address says."),
            tr(
                "Copy the address again from the output of the server; if it is the same, something is between you "
                "and it."
            ),
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate itself is known, whatever name it carries
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=der)
    return address, context


def untrusted(error: BaseException) -> WireError | None:
    """The sentence for a certificate that nobody here vouches for; None for any other error."""
    if type(error).__name__ != "SSLCertVerificationError":  # by name: see the import above
        return None
    return WireError(
        Code.UNAUTHORIZED,
        tr("This machine does not trust the certificate of that server."),
        tr("Use the address with #sha256=... that the server prints when it starts."),
    )
