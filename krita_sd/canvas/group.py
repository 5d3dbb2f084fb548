# SPDX-License-Identifier: GPL-3.0-or-later
"""A layer group out of many pictures: made outside the document, then added in one undo step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from ..geometry import Bounds
from ..qt import QtCore, Signal
from . import colour, host, watch
from .active import active_node, keep_active
from .layer import Layer, birthplace

RETRY = 40  # milliseconds between two looks at a busy document


@dataclass(frozen=True)
class Member:
    """One layer of the group. `read` gives its bgra8 picture of the group's bounds, or None when it is gone."""

    name: str
    read: Callable[[], bytes | None]


class GroupInsertion(QtCore.QObject):
    """Puts a group on top of `doc`, in turns of the event loop when the pen is up. The first member is on top; the
    others are hidden, so that the painter sees one picture and switches."""

    done = Signal()  # also when the document was closed meanwhile

    def __init__(self, doc: Any, bounds: Bounds, name: str, members: list[Member], parent: Any = None) -> None:
        super().__init__(parent)
        self._doc = doc
        self._bounds = bounds
        self._name = name
        self._members = members
        self._steps = self._run()
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._turn)
        self._timer.start(0)

    def _turn(self) -> None:
        delay = next(self._steps, -1) if host.is_open(self._doc) else -1
        if delay >= 0:
            self._timer.start(delay)
        else:
            self._steps.close()
            self.done.emit()

    def _run(self) -> Generator[int, None, None]:
        scratch = birthplace()
        try:
            yield from self._fill(scratch)
        finally:
            if host.is_open(scratch):
                colour.drop(scratch)

    def _fill(self, scratch: Any) -> Iterator[int]:
        group = scratch.createGroupLayer(self._name)
        for number, member in reversed(list(enumerate(self._members))):
            picture = member.read()
            if picture is None:
                continue
            layer = Layer(self._doc, self._bounds, member.name, scratch)
            for _ in layer.write(picture):
                yield 0
            layer.node.setLocked(False)
            layer.node.setVisible(number == 0)
            group.addChildNode(layer.node, None)
            yield 0
        while not watch.may_touch(self._doc):
            yield RETRY
        active, root = active_node(self._doc), self._doc.rootNode()
        if root is None:
            return  # closed while it was asked
        with keep_active(self._doc, active):
            root.addChildNode(group, None)
        yield 0
        while not watch.may_touch(self._doc):
            yield RETRY
        self._doc.refreshProjection()
