# SPDX-License-Identifier: GPL-3.0-or-later
"""A wire that can be cut: forwards TCP connections until told to drop them."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Listens on `port` of the loopback and forwards to `target` (a port there)."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.refusing = False
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                near.close()
                continue
            self.accepted += 1
            far = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self._end({source, sink})

    def _end(self, sockets: set[socket.socket]) -> None:
        with self._lock:
            self._open -= sockets
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def drop(self) -> None:
        """Cut every connection now, as a sleeping laptop or a restarted router does."""
        with self._lock:
            cut = set(self._open)
        self._end(cut)

    def close(self) -> None:
        """No more connections."""
        self._listener.close()
        self.drop()
