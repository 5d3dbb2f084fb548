# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire `ksd.1`, shared by the plugin and the server: bytes <-> messages, no sockets, no clock, no Qt.

Modules: `limits` (every bound, with its unit), `errors` (the closed set of error codes), `recipe` (what determines a
picture), `frames` (pictures as binary chunks), `messages` (control messages as JSON text), `client` (the client side
of a session: resume, acknowledgement, exactly-once results), `places` (where the server keeps its state).
"""

PROTOCOL = "ksd.1"
"""Websocket subprotocol and the version offered in hello."""
