# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a job needs of its document, one thing after the other: the picture, the mask, the control layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from krita_sd.canvas import capture, nodes
from krita_sd.controls import ControlLayer
from krita_sd.geometry import Bounds

Done = Callable[[bytes | None, bytes | None, list[tuple[ControlLayer, bytes]]], None]


class Reading:
    """`done(picture, mask, [(control, picture)])` or `failed(sentence)` comes later, once, unless `cancel` comes first.

    kind: of the job; a text to picture job reads control layers alone. hidden: ids of layers that the composite must
    not show. mask: what changes, where that is not the selection.
    """

    def __init__(
        self,
        doc: Any,
        bounds: Bounds,
        kind: str,
        source: str,
        controls: Sequence[ControlLayer],
        hidden: Sequence[str],
        done: Done,
        failed: Callable[[str], None],
        mask: bytes | None = None,
    ) -> None:
        self._doc, self._bounds = doc, bounds
        self._waiting = list(controls)
        self._read: list[tuple[ControlLayer, bytes]] = []
        self._picture: bytes | None = None
        self._given = self._mask = mask
        self._done, self._failed = done, failed
        self._reader: capture.Capture | None = None
        self._cancelled = False
        if kind == "txt2img":
            self._next()
            return
        way = capture.ACTIVE_LAYER if source == "active layer" else capture.VISIBLE
        without = nodes.uuids(list(hidden))
        self._reader = capture.Capture(doc, bounds, way, kind == "inpaint" and mask is None, without)
        self._reader.start(self._captured, failed)

    def cancel(self) -> None:
        """Stop; nothing is called any more."""
        self._cancelled = True
        if self._reader is not None:
            self._reader.cancel()

    def _captured(self, picture: bytes, mask: bytes | None) -> None:
        self._picture, self._mask = picture, self._given or mask
        self._next()

    def _next(self) -> None:
        if self._cancelled:
            return
        if not self._waiting:
            self._done(self._picture, self._mask, self._read)
            return
        control = self._waiting.pop(0)
        node = nodes.uuids([control.layer])[0]
        self._reader = capture.Capture(self._doc, self._bounds, node=node)
        self._reader.start(lambda picture, _mask: self._one(control, picture), self._failed)

    def _one(self, control: ControlLayer, picture: bytes) -> None:
        self._read.append((control, picture))
        self._next()
