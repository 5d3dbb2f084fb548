# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test may ask about Krita: documents, pixels, undo steps, widgets and where they are on the screen."""

import hashlib
import sys
import time

from krita import Krita, Selection

if "PyQt6.QtCore" in sys.modules:
    from PyQt6 import QtCore, QtWidgets
else:
    from PyQt5 import QtCore, QtWidgets

CANVASES = ("KisQPainterCanvas", "KisOpenGLCanvas2")
SRGB = "sRGB-elle-V2-srgbtrc.icc"


def K():
    return Krita.instance()


def new_document(width, height, model="RGBA", depth="U8", profile="", name="test", show=True):
    """A document as the painter's "New" would give it: one white background layer. Becomes the active one."""
    doc = K().createDocument(width, height, name, model, depth, profile, 72.0)
    if show:
        K().activeWindow().addView(doc)
    return doc


def all_documents():
    """Those that Krita lists, and those that are only shown: what a plugin made and added a view for."""
    found = K().documents()
    shown = [view.document() for window in K().windows() for view in window.views()]
    return found + [d for d in shown if d is not None and d.rootNode() is not None and not any(d == o for o in found)]


def close_all():
    """Without questions, and 300 ms later.

    Krita 5.1 crashes when code closes a document while its layer list still has a change to show
    (KisNodeModel::processUpdateQueue), or closes one with a selection.
    """
    docs = all_documents()
    for doc in docs:
        doc.setBatchmode(True)
        doc.waitForDone()
        if doc.selection() is not None:
            doc.setSelection(None)
    if docs:
        QtCore.QTimer.singleShot(300, lambda: _close(docs))


def _close(docs):
    for doc in docs:
        if any(doc == other for other in all_documents()):
            doc.setModified(False)
            doc.close()


def doc_by_name(name):
    for doc in K().documents():
        if doc.name() == name:
            return doc
    return None


def idle(doc=None):
    doc = doc or K().activeDocument()
    if doc is None or not doc.tryBarrierLock():
        return False
    doc.unlock()
    return True


def digest(data):
    return hashlib.blake2b(bytes(data), digest_size=16).hexdigest()


def pixels(doc=None, x=0, y=0, w=None, h=None):
    """The composite as the file would hold it, in hex; slow for big areas."""
    doc = doc or K().activeDocument()
    return bytes(doc.pixelData(x, y, w or doc.width(), h or doc.height())).hex()


def doc_digest(doc=None):
    doc = doc or K().activeDocument()
    return digest(doc.pixelData(0, 0, doc.width(), doc.height()))


def layers(doc=None):
    """Bottom to top: name, type, visible, locked, colour model and depth; without the global selection."""
    doc = doc or K().activeDocument()
    return [
        {
            "name": n.name(),
            "type": n.type(),
            "visible": n.visible(),
            "locked": n.locked(),
            "space": n.colorModel() + "/" + n.colorDepth(),
        }
        for n in doc.topLevelNodes()
        if n.type() != "selectionmask"
    ]


def layer(name, doc=None):
    doc = doc or K().activeDocument()
    return doc.nodeByName(name)


def undo_rows():
    """The History docker's rows and the current one."""
    for docker in K().dockers():
        if docker.objectName() == "History":
            view = docker.findChild(QtWidgets.QAbstractItemView)
            model = view.model()
            rows = [str(model.index(r, 0).data()) for r in range(model.rowCount())]
            return {"rows": rows, "current": view.currentIndex().row()}
    return None


def select(doc, x, y, w, h, feather=0, invert=False):
    """A selection from code, for shapes that a mouse cannot draw. No wrapper of it may outlive the document."""
    s = Selection()
    s.select(x, y, w, h, 255)
    if feather:
        s.feather(feather)
    if invert:
        s.invert()
    doc.setSelection(s)


def selection_box(doc=None):
    doc = doc or K().activeDocument()
    s = doc.selection() if doc else None
    return None if s is None or s.width() == 0 else [s.x(), s.y(), s.width(), s.height()]


def _all(name):
    """All widgets of that objectName. Ours are looked for in the docker first, and over the canvas: searching all of
    Krita's blocks it for a tenth of a second, and a test asks thirty times in one."""
    near = [docker for docker in K().dockers() if docker.objectName() == "krita_sd_docker"]
    near += [area for area in map(_mdi_area, K().windows()) if area is not None]
    found = [w for top in near for w in top.findChildren(QtWidgets.QWidget, name)]
    if found or name == "krita_sd_overlay":
        return found
    tops = QtWidgets.QApplication.topLevelWidgets()
    return [w for top in tops for w in top.findChildren(QtWidgets.QWidget, name)]


def _mdi_area(window):
    return window.qwindow().centralWidget().findChild(QtWidgets.QMdiArea)


_seen: dict = {}


def widget(name):
    """The widget of that objectName, the visible one first; None when there is none."""
    try:
        if name in _seen and _seen[name].isVisible():
            return _seen[name]
    except RuntimeError:  # deleted by Qt
        del _seen[name]
    found = sorted(_all(name), key=lambda w: not w.isVisible())
    if found:
        _seen[name] = found[0]
    return found[0] if found else None


def widget_state(name):
    """Everything a painter can see of it, and where it is on the screen."""
    w = widget(name)
    if w is None:
        return None
    corner = w.mapToGlobal(QtCore.QPoint(0, 0))
    visible_part = w.visibleRegion().boundingRect()
    state = {
        "visible": w.isVisible() and not visible_part.isEmpty(),
        "enabled": w.isEnabled(),
        "focus": w.hasFocus(),
        "x": corner.x(),
        "y": corner.y(),
        "width": w.width(),
        "height": w.height(),
        "class": w.metaObject().className(),
        "tip": w.toolTip(),
    }
    for key in ("text", "toPlainText", "value", "maximum", "format", "currentText", "count", "isChecked", "title"):
        reader = getattr(w, key, None)
        if callable(reader):
            try:
                state[key] = reader()
            except TypeError:
                pass
    return state


def reach(name, enabled):
    """The state of a widget that can be clicked now, else None. One that is scrolled away is brought into view.

    A painter uses the wheel for that; how high the docker is differs between the versions of Krita.
    """
    w = widget(name)
    if w is None or not w.isVisible() or (enabled and not w.isEnabled()):
        return None
    area = w.parentWidget()
    while area is not None and not w.visibleRegion().contains(w.rect().center()):
        if isinstance(area, QtWidgets.QScrollArea):
            area.ensureWidgetVisible(w, 0, 4)
        area = area.parentWidget()
    state = widget_state(name)
    return state if state["visible"] else None


def entry(text):
    """Where the line `text` of the open menu or drop-down list is on the screen; None while there is none."""
    popup = QtWidgets.QApplication.activePopupWidget()
    if isinstance(popup, QtWidgets.QMenu):
        for action in popup.actions():
            if action.text().replace("&", "") == text and action.isEnabled():
                point = popup.mapToGlobal(popup.actionGeometry(action).center())
                return [point.x(), point.y()]
    view = popup.findChild(QtWidgets.QAbstractItemView) if popup is not None else None
    return row_of(view, text) if view is not None else None


def row_of(view, text):
    """Where the row with that text of a list is on the screen, brought into sight; None without one."""
    for row in range(view.model().rowCount()):
        index = view.model().index(row, 0)
        if text in str(index.data()):
            view.scrollTo(index)
            box = view.visualRect(index)
            point = view.viewport().mapToGlobal(QtCore.QPoint(box.x() + min(box.width(), 40) // 2, box.center().y()))
            return [point.x(), point.y()]
    return None


def canvas_state():
    """Corner and size of the active canvas on the screen, the corner of the image there (unrotated), and the zoom."""
    area = _mdi_area(K().activeWindow())
    sub = area.currentSubWindow() if area else None
    if sub is None:
        return None
    for w in sub.findChildren(QtWidgets.QWidget):
        if w.metaObject().className() in CANVASES:
            corner = w.mapToGlobal(QtCore.QPoint(0, 0))
            canvas = K().activeWindow().activeView().canvas()
            area = w.parentWidget()
            while not isinstance(area, QtWidgets.QAbstractScrollArea):
                area = area.parentWidget()
            return {
                "left": corner.x() - area.horizontalScrollBar().value(),
                "top": corner.y() - area.verticalScrollBar().value(),
                "x": corner.x(),
                "y": corner.y(),
                "width": w.width(),
                "height": w.height(),
                "zoom": canvas.zoomLevel(),
                "rotation": canvas.rotation(),
                "mirror": canvas.mirror(),
                "class": w.metaObject().className(),
                "focus": w.hasFocus(),
            }
    return None


def dialogs():
    """Visible top-level windows besides the main one."""
    found = []
    for w in QtWidgets.QApplication.topLevelWidgets():
        if w.isVisible() and not isinstance(w, QtWidgets.QMainWindow):
            texts = [c.text() for c in w.findChildren(QtWidgets.QLabel)][:8]
            found.append({"class": w.metaObject().className(), "title": w.windowTitle(), "text": texts})
    return found


class BlockMeter(QtCore.QObject):
    """Longest time between two turns of the event loop, in milliseconds, with a timer that wants one every 2 ms."""

    def __init__(self):
        super().__init__()
        self.timer = QtCore.QTimer(self)
        self.timer.timeout.connect(self.tick)
        self.gaps = []

    def start(self):
        self.gaps = []
        self.last = time.perf_counter()
        self.timer.start(2)

    def tick(self):
        now = time.perf_counter()
        self.gaps.append((now - self.last) * 1000)
        self.last = now

    def stop(self):
        self.timer.stop()
        gaps = sorted(self.gaps) or [0.0]
        return {
            "max": round(gaps[-1], 1),
            "p99": round(gaps[int(len(gaps) * 0.99)], 1),
            "p95": round(gaps[int(len(gaps) * 0.95)], 1),
            "over16": sum(g > 16 for g in gaps),
            "over33": sum(g > 33 for g in gaps),
            "worst": [round(g, 1) for g in gaps[-8:]],
            "turns": len(gaps),
        }


METER = BlockMeter()
