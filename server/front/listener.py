# SPDX-License-Identifier: GPL-3.0-or-later
"""The handshake: who may connect. Refuses browsers, strangers and wrong paths before any work is done for them."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import ssl
from http import HTTPStatus
from pathlib import Path

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from krita_sd import tls
from krita_sd.wire import PROTOCOL
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.limits import MAX_MESSAGE, PING_SECONDS, PING_TIMEOUT_SECONDS

from .connection import Connection
from .hub import Hub
from .state import MAX_TOKEN

log = logging.getLogger(__name__)

PATH = "/v1"
HANDSHAKE_SECONDS = 5.0
CLOSE_SECONDS = 3.0
MAX_CONNECTIONS = 128
_END = "-----END CERTIFICATE-----"


def refuse(request: Request, token: str) -> tuple[HTTPStatus, str] | None:
    """Why this handshake is refused, or None. Browsers always send an Origin; our clients never do."""
    if request.headers.get_all("Origin"):
        return HTTPStatus.FORBIDDEN, "Browsers may not connect."
    given = request.headers.get_all("Authorization")
    scheme, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    presented = value.strip().encode("utf-8", "surrogateescape")
    right = hmac.compare_digest(presented, token.encode())
    if scheme.lower() != "bearer" or len(presented) > MAX_TOKEN or not right:
        return HTTPStatus.UNAUTHORIZED, "The token is missing or wrong."
    if request.path != PATH:
        return HTTPStatus.NOT_FOUND, f"The path is {PATH}."
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def encryption(certificate: Path, key: Path | None) -> tuple[ssl.SSLContext, str]:
    """What a listener needs to offer wss, and the fingerprint of the certificate (see `krita_sd.tls`).

    certificate: PEM, the server's own first; key: PEM without a passphrase, None when it is in the same file.
    Raises WireError in one sentence.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An encrypted key would ask for its passphrase on a terminal that may not be there.
        context.load_cert_chain(certificate, key, password=lambda: b"")
        first = certificate.read_text(encoding="ascii", errors="replace").partition(_END)[0]
        der = ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN CERTIFICATE") :] + _END + "\n")
    except (OSError, ValueError) as error:
        # OpenSSL's own words name lines of its sources.
        told = None if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        reason = told or "file and key are not what they should be"
        raise WireError(
            Code.BAD_REQUEST,
            f"The certificate cannot be used ({reason}).",
            "--tls-cert and --tls-key are PEM files that belong together; the key has no passphrase.",
        ) from None
    return context, tls.fingerprint(der)


class Listener:
    """Accepts connections on one address."""

    def __init__(self, hub: Hub, token: str) -> None:
        self._hub = hub
        self._token = token
        self._live: dict[str, Connection] = {}
        self._count = 0
        self._server: Server | None = None

    async def open(self, host: str, port: int, encryption: ssl.SSLContext | None = None) -> int:
        """Listen; returns the port. Raises WireError(port_taken) in one sentence."""
        try:
            self._server = await serve(
                self._connected,
                host,
                port,
                ssl=encryption,
                subprotocols=[Subprotocol(PROTOCOL)],
                compression=None,
                process_request=self._process_request,
                open_timeout=HANDSHAKE_SECONDS,
                close_timeout=CLOSE_SECONDS,
                ping_interval=PING_SECONDS,
                ping_timeout=PING_TIMEOUT_SECONDS,
                max_size=MAX_MESSAGE,
                server_header=None,
                logger=logging.getLogger("websockets.server"),
            )
        except OSError as error:
            raise WireError(
                Code.PORT_TAKEN,
                f"Cannot listen on {host} port {port} ({error.strerror or error}).",
                "Stop the program that uses the port, or choose another with --port (0 finds a free one).",
            ) from None
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        reason = refuse(request, self._token)
        if reason is None and self._count >= MAX_CONNECTIONS:
            reason = HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections."
        return connection.respond(reason[0], reason[1] + "\n") if reason is not None else None

    async def _connected(self, socket: ServerConnection) -> None:
        self._count += 1
        try:
            await Connection(self._hub, socket, self._live).run()
        finally:
            self._count -= 1
