# SPDX-License-Identifier: GPL-3.0-or-later
"""A hub on the loopback for tests: repositories, byte ranges, redirects, and every way in which a download breaks."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_digest(data: bytes) -> str:
    """What git calls that content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class FakeHub:
    """What it serves, how it misbehaves, and what was asked of it.

    breaks: bytes of the body after which the next connections end, one each. damaged: how many times the next bodies
    are wrong. ranges: whether it resumes. redirect: content is fetched from another address, as the real one does.
    status: of everything that is content, where it is not 200. slow: seconds per piece.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    damaged: int = 0
    ranges: bool = True
    redirect: bool = True
    redirect_to: str = ""
    status: int = 200
    gate: threading.Event | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def listing(self, repo: str) -> dict[str, Any]:
        """The answer about a repository: large files have a sha256, small ones only what git calls them."""
        siblings = []
        for name, data in self.repos[repo].items():
            item: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_digest(data)}
            if name.endswith(".safetensors"):
                item["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(item)
        return {"id": repo, "sha": COMMIT, "siblings": siblings}

    def asked(self, part: str) -> list[dict[str, str]]:
        """Headers of the requests whose path has that part."""
        return [headers for path, headers in self.requests if part in path]


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:  # noqa: N802
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((path, dict(self.headers)))
            if match := re.fullmatch(r"/api/models/(.+)/revision/main", path):
                if hub.status == 200 and match[1] in hub.repos:
                    self._send(200, json.dumps(hub.listing(match[1])).encode())
                else:
                    self._send(hub.status if hub.status != 200 else 404, b"{}")
            elif match := re.fullmatch(rf"/(.+)/resolve/{COMMIT}/(.+)", path):
                if hub.redirect:
                    self.send_response(302)
                    self.send_header("Location", hub.redirect_to or f"{hub.cdn}/cdn/{match[1]}//{match[2]}")
                    self.end_headers()
                else:
                    self._content(hub.repos[match[1]][match[2]])
            elif match := re.fullmatch(r"/cdn/(.+)//(.+)", path):
                self._content(hub.repos[match[1]][match[2]])
            else:
                self._send(404, b"")

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _content(self, data: bytes) -> None:
            if hub.status != 200:
                self._send(hub.status, b"no")
                return
            start, total = 0, len(data)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if hub.damaged:
                hub.damaged -= 1
                data = bytes(byte ^ 1 for byte in data)
            if wanted and hub.ranges:
                start = int(wanted[1])
                if start >= total:
                    self._send(416, b"")
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            body = data[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if hub.breaks:
                self.wfile.write(body[: hub.breaks.pop(0)])
                self.close_connection = True
                return
            if hub.gate is not None:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                hub.gate.wait(60)
                body = body[len(body) // 2 :]
            try:
                self.wfile.write(body)
            except OSError:
                pass  # the downloader has left

    return Handler


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it: under `url`, and its content under `cdn`, which is another address to a client."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) for _ in range(2)]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        if hub.gate is not None:
            hub.gate.set()
        for server in servers:
            server.shutdown()
            server.server_close()
