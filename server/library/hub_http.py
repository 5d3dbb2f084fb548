# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain HTTP to the Hugging Face hub: one request with its redirects, and a sentence for what goes wrong.

`requests` and not `huggingface_hub`: what arrives is checked against its checksum, resumed by byte range and given up
within a read, none of which that library promises; and it keeps its interface where that one changes every year.
Environment: HF_ENDPOINT (a mirror), HF_TOKEN (for models that want an account), HF_HUB_OFFLINE, and the usual proxies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from krita_sd.wire.errors import Code, WireError

ENDPOINT = "https://huggingface.co"
CONNECT_SECONDS = 10.0
READ_SECONDS = 20.0
"""Without a byte for this long a connection counts as broken; a cancelled download ends at the latest then."""

MAX_REDIRECTS = 5
_PIECE = 256 * 1024
MAX_JSON = 16 * 1024**2
_REDIRECTS = (301, 302, 303, 307, 308)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Broken(Exception):
    """The connection failed; the same request may succeed later. Seconds to wait, if the hub named them."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class Hub:
    """One session of requests to the hub. Blocks; one thread uses it. A context manager."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        if environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise WireError(
                Code.UNSUPPORTED,
                "Downloads are switched off by HF_HUB_OFFLINE.",
                "Start the server without it, or put the files into a models folder yourself.",
            )
        import requests

        self.endpoint = (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        self._token = environ.get("HF_TOKEN", "").strip()
        self._requests = requests
        self._session = requests.Session()
        self._session.auth = _no_netrc
        if urlsplit(self.endpoint).hostname in _LOOPBACK:
            self._session.trust_env = False  # a proxy cannot reach this machine's loopback

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """The response to GET, its body unread, whatever its status below 500. Raises Broken, or WireError for a
        redirect to somewhere unsafe or a certificate that is wrong."""
        for _ in range(MAX_REDIRECTS + 1):
            sent = {"User-Agent": "krita-sd", "Accept-Encoding": "identity", **(headers or {})}
            if self._token and _origin(url) == _origin(self.endpoint):
                sent["Authorization"] = f"Bearer {self._token}"
            try:
                response = self._session.get(
                    url, headers=sent, stream=True, allow_redirects=False, timeout=(CONNECT_SECONDS, READ_SECONDS)
                )
            except self._requests.exceptions.SSLError:
                raise WireError(
                    Code.INTERRUPTED,
                    "The hub's certificate was not accepted.",
                    "Check the clock of this machine, and whether a proxy changes its connections.",
                ) from None
            except self._requests.RequestException as error:
                raise Broken(type(error).__name__) from None
            if response.status_code in _REDIRECTS and response.headers.get("Location"):
                response.close()
                url = self._next(url, response.headers["Location"])
                continue
            if response.status_code == 429 or response.status_code >= 500:
                response.close()
                raise Broken(f"status {response.status_code}", _seconds(response.headers.get("Retry-After")))
            return response
        raise Broken("too many redirects")

    def json(self, path: str) -> Any:
        """The JSON under `path` of the hub; None when there is none. Raises Broken and WireError."""
        import json

        with self.get(f"{self.endpoint}{path}") as response:
            check(response.status_code)
            body = b"".join(self.chunks(response, MAX_JSON))
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None

    def chunks(self, response: Any, limit: int) -> Iterator[bytes]:
        """The body in pieces as they arrive; whether all of it came is the caller's to see. Raises Broken when the
        connection fails or more than `limit` bytes come."""
        from urllib3.exceptions import HTTPError

        # read1 gives what is there; `iter_content` would throw away a last piece that is not full.
        read = getattr(response.raw, "read1", response.raw.read)
        total = 0
        while True:
            try:
                chunk = read(_PIECE)
            except (HTTPError, OSError) as error:
                raise Broken(type(error).__name__) from None
            if not chunk:
                return
            total += len(chunk)
            if total > limit:
                raise Broken("more came than was promised")
            yield chunk

    def _next(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        parts = urlsplit(target)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise WireError(
                Code.INTERRUPTED,
                f"The hub sends the download to {parts.hostname or 'another place'} without encryption.",
                "Use another HF_ENDPOINT.",
            )
        if parts.hostname in _LOOPBACK and urlsplit(self.endpoint).hostname not in _LOOPBACK:
            raise WireError(
                Code.INTERRUPTED, "The hub sends the download back to this machine.", "Use another HF_ENDPOINT."
            )
        return target


def check(status: int) -> None:
    """Raise WireError with a sentence for a status that no later try will change."""
    if status in (401, 403):
        raise WireError(
            Code.UNAUTHORIZED,
            "The hub gives this model only to accounts that have accepted its licence.",
            "Accept it on the model's page, start the server with HF_TOKEN set to your access token, and try again.",
        )
    if status in (404, 410):
        raise WireError(
            Code.MODEL_MISSING, "The hub no longer has this model or file.", "Update Krita SD; it may have moved."
        )
    if status >= 400:
        raise WireError(Code.INTERRUPTED, f"The hub refused the download (status {status}).", "Try again later.")


def offline() -> WireError:
    """What to say when the hub cannot be reached at all."""
    return WireError(
        Code.INTERRUPTED,
        "The hub cannot be reached.",
        "Check the connection to the internet and try again; what has arrived is kept. Or put the files into a models "
        "folder yourself.",
        retryable=True,
    )


def _no_netrc(request: Any) -> Any:
    """Without an `auth` requests would send what ~/.netrc has for that host."""
    return request


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _seconds(text: str | None) -> float:
    return min(60.0, float(text)) if text is not None and text.isdecimal() else 0.0
