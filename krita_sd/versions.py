# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between the Kritas that this plugin runs in, and how it copes: nowhere by asking for a version number.

Either the functions below look for the feature itself, or the plugin does what is right in every version. All of it was
seen in Debian's packages of Krita 5.1.5, 5.2.9, 5.3.4 and 6.0.4; docs/krita-versions.md tells what was run in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """seen: the first version that behaves so, or the last one that does. coped: where, and by what."""

    seen: str
    what: str
    coped: str


DIFFERENCES = (
    Difference(
        "from 6.0",
        "Qt 6 with PyQt6: scoped enums only, also in Krita's own classes; no exec_; QAction lives in QtGui",
        "qt.py takes the Qt that Krita has loaded; the enums of Qt and Krita are written out in full everywhere",
    ),
    Difference(
        "from 5.2",
        "refreshProjection ends the painter's running stroke and holds Krita up for a second",
        "canvas.watch.may_touch is asked before; what is new appears over the canvas meanwhile (canvas.overlay)",
    ),
    Difference(
        "from 5.3",
        "setSelection ends the running stroke too, and leaves an undo step without a name",
        "the plugin never sets the selection of a document",
    ),
    Difference(
        "up to 5.2",
        "a new layer is made the active one a turn of the event loop later, from 5.3 on at once",
        "canvas.active.keep_active restores the painter's layer one turn later, which is right for both",
    ),
    Difference(
        "up to 5.2",
        "the node of the global selection is not the last of the top-level nodes, from 5.3 on it is",
        "it is told by its type, never by its place",
    ),
    Difference(
        "from 5.2",
        "a view tells its transformations from image to canvas",
        "versions.image_to_canvas; before, canvas.overlay computes it from zoom, rotation, mirror and scroll bars",
    ),
    Difference(
        "from 5.2",
        "a plugin may make a transparency mask and fill it",
        "canvas.insert offers a result as a layer with a mask where createTransparencyMask is there",
    ),
    Difference(
        "from 5.3",
        "setPixelData answers False when it refused; before it answers nothing",
        "versions.refused",
    ),
    Difference(
        "5.1 to 6.0",
        "a closed document ends some calls with a segmentation fault",
        "canvas.host.is_open is asked first, in every version",
    ),
    Difference(
        "from 5.3",
        "a view outlives its document for a moment, and what it then answers as its document has nothing in it",
        "canvas.host.is_whole: such a document counts as closed, also where it is the active one",
    ),
    Difference(
        "5.1 to 6.0",
        "adding a node to another one is an undo step of the document that made them, even outside of its picture",
        "canvas.layer.birthplace: a layer with a mask and a group are put together in a scratch document",
    ),
    Difference(
        "from 5.3",
        "activeNode and addChildNode let the event loop turn, in every version what waits for a busy document does: "
        "timers of ours fire in the middle, the document may be closed there, and a layer that came in be active",
        "canvas.active answers the painter's layer; canvas.place and Core.look begin no turn inside of another one; "
        "whether a document is whole is asked again after such a call",
    ),
    Difference(
        "from 5.3",
        "Krita's own event filter comes onto a canvas after the view was announced, and takes the events of a pen away",
        "canvas.watch installs its filter anew while a view comes up: the newest is asked first",
    ),
    Difference(
        "from 6.0",
        "no docker is visible before the first document, and a new one not by itself after it",
        "plugin.Docker comes forward with the first document, once",
    ),
    Difference(
        "5.1 to 6.0",
        "no version has a signal for changed pixels, a partial refreshProjection, or one undo step for several nodes",
        "canvas.watch follows pen and undo list; a result is one layer, so that it is one step",
    ),
)


def refused(answer: Any) -> bool:
    """Whether Node.setPixelData, which answered `answer`, wrote nothing. Before Krita 5.3 it never tells."""
    return answer is False


def image_to_canvas(view: Any) -> Any | None:
    """QTransform from image pixels to points of the canvas widget, as the view tells it; None before Krita 5.2."""
    if not (hasattr(view, "flakeToImageTransform") and hasattr(view, "flakeToCanvasTransform")):
        return None
    flake, known = view.flakeToImageTransform().inverted()
    return flake * view.flakeToCanvasTransform() if known else None


def remove_annotation(doc: Any, name: str, empty: Any) -> None:
    """Take an annotation out of an open document, or where no Krita call does that, make it `empty` (QByteArray)."""
    if hasattr(doc, "removeAnnotation"):
        doc.removeAnnotation(name)
    else:
        doc.setAnnotation(name, "", empty)
