# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows pictures and rectangles over the canvas without touching the image; clicks go through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import versions
from ..geometry import Bounds
from ..qt import Qt, QtCore, QtGui, QtWidgets
from . import colour, host

FOLLOW = 30  # milliseconds between two looks at zoom, pan, rotation and mirror

THIN = 0.25
"""Share of its opacity that a picture keeps where the painter's fresh strokes must be seen through it."""


def image_to_canvas(doc: Any, canvas: Any) -> Any | None:
    """QTransform from document pixels to points of the canvas widget of the active view; None when it is unknown."""
    view = host.krita().activeWindow().activeView()
    told = versions.image_to_canvas(view)
    if told is not None:
        return told
    # Without that the API tells zoom, rotation and mirror; the scroll bars hold the rest: the corner of the
    # transformed image's bounding box.
    area = canvas.parentWidget()
    while area is not None and not isinstance(area, QtWidgets.QAbstractScrollArea):
        area = area.parentWidget()
    if area is None:
        return None
    state = view.canvas()
    zoom = state.zoomLevel() * 72.0 / (doc.resolution() or 72.0)
    flip = -1.0 if state.mirror() else 1.0
    turn = QtGui.QTransform().rotate(state.rotation())
    transform = QtGui.QTransform.fromScale(zoom * flip, zoom) * turn
    box = transform.mapRect(QtCore.QRectF(0, 0, doc.width(), doc.height()))
    x = -area.horizontalScrollBar().value() - box.x()
    y = -area.verticalScrollBar().value() - box.y()
    return transform * QtGui.QTransform.fromTranslate(x, y)


class _Sheet(QtWidgets.QWidget):
    """The widget itself, a child of the canvas as large as what it shows."""

    def __init__(self, canvas: Any) -> None:
        super().__init__(canvas)
        self.setObjectName("krita_sd_overlay")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.transform = QtGui.QTransform()
        self.bounds = Bounds(0, 0, 0, 0)
        self.part = self.bounds
        self.image: Any = None
        self.outline = False
        self.opacity = 1.0
        self.thin = Bounds(0, 0, 0, 0)
        self.painted: Callable[[], None] | None = None

    def place(self, transform: Any, bounds: Bounds) -> None:
        """Cover `bounds` (document pixels) under `transform`, as far as the canvas shows it."""
        box = transform.mapRect(QtCore.QRectF(bounds.x, bounds.y, bounds.width, bounds.height)).toAlignedRect()
        box = box.adjusted(-2, -2, 2, 2).intersected(self.parentWidget().rect())
        moved = transform * QtGui.QTransform.fromTranslate(-box.x(), -box.y())
        if box != self.geometry() or moved != self.transform or bounds != self.bounds:
            self.transform, self.bounds = moved, bounds
            self.setGeometry(box)
            self.update()

    def update_boxes(self, *boxes: Bounds) -> None:
        """These rectangles (document pixels) look different now."""
        for box in boxes:
            if not box.is_empty:
                area = QtCore.QRectF(box.x, box.y, box.width, box.height)
                self.update(self.transform.mapRect(area).toAlignedRect().adjusted(-2, -2, 2, 2))

    def paintEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        painter = QtGui.QPainter(self)
        painter.setTransform(self.transform)
        area = QtCore.QRectF(self.bounds.x, self.bounds.y, self.bounds.width, self.bounds.height)
        if self.image is not None:
            self._draw(painter)
        if self.outline:
            for colour_name, style in (("black", Qt.PenStyle.SolidLine), ("white", Qt.PenStyle.DashLine)):
                pen = QtGui.QPen(QtGui.QColor(colour_name), 1.5, style)
                pen.setCosmetic(True)
                painter.setPen(pen)
                painter.drawRect(area)
        painter.end()
        if self.painted is not None:
            self.painted()

    def _draw(self, painter: Any) -> None:
        part = self.part if not self.part.is_empty else self.bounds
        whole, thin = part, self.thin.intersect(part)
        area = QtCore.QRectF(part.x, part.y, part.width, part.height)
        if self.image.width() < part.width or self.image.height() < part.height:
            painter.setRenderHint(QtGui.QPainter.RenderHint.SmoothPixmapTransform)
        for box, opacity in ((thin, self.opacity * THIN), (whole, self.opacity)):
            region = QtGui.QRegion(*box) - (QtGui.QRegion(*thin) if box is whole else QtGui.QRegion())
            if not region.isEmpty() and opacity > 0:
                if not thin.is_empty:
                    painter.setClipRegion(region)
                painter.setOpacity(opacity)
                painter.drawImage(area, self.image)
        painter.setOpacity(1.0)
        painter.setClipping(False)


class Overlay:
    """A picture or a rectangle over the active view of `doc`; invisible while another document is in front."""

    def __init__(self, doc: Any) -> None:
        self._doc = doc
        self._sheet: _Sheet | None = None
        self._bounds: Bounds | None = None
        self._picture = b""
        self._image: Any = None
        self._part = Bounds(0, 0, 0, 0)
        self._outline = False
        self._opacity = 1.0
        self._thin = Bounds(0, 0, 0, 0)
        self._painted: Callable[[], None] | None = None
        self._timer = QtCore.QTimer()
        self._timer.timeout.connect(self._follow)

    def show_picture(self, picture: bytes, bounds: Bounds) -> None:
        """Show bgra8 `picture` of bounds' size at `bounds`."""
        if picture is not self._picture:
            self._picture = picture  # keeps the bytes alive that the image reads
            self._image = colour.image_of(picture, bounds.width, bounds.height)
            if self._sheet is not None:
                self._sheet.image = self._image
                self._sheet.update()
        self._show(bounds)

    def show_image(
        self, image: Any, bounds: Bounds, painted: Callable[[], None] | None = None, part: Bounds | None = None
    ) -> None:
        """Show a QImage stretched over `part` of `bounds`, all of it when None. `painted` is called once it is on the
        screen."""
        self._image, self._painted, self._part = image, painted, part or bounds
        if self._sheet is not None:
            self._dress(self._sheet)
        self._show(bounds)

    def set_look(self, opacity: float, thin: Bounds, outline: bool) -> None:
        """opacity 0..1; less of it inside `thin` (document pixels); `outline`: draw the edge of the picture too."""
        if (opacity, outline) != (self._opacity, self._outline):
            self._opacity, self._thin, self._outline = opacity, thin, outline
            if self._sheet is not None:
                self._dress(self._sheet)
        elif thin != self._thin:
            before, self._thin = self._thin, thin
            if self._sheet is not None:
                # With every move of the pen: only where it looks different now, for all below is painted again too.
                self._sheet.thin = thin
                self._sheet.update_boxes(before, thin)

    def _dress(self, sheet: _Sheet) -> None:
        sheet.image, sheet.outline, sheet.opacity, sheet.thin = self._image, self._outline, self._opacity, self._thin
        sheet.part = self._part
        sheet.painted = self._was_painted
        sheet.update()

    def _was_painted(self) -> None:
        painted, self._painted = self._painted, None
        if painted is not None:
            painted()
        # What moved the canvas also painted it, and us on top of it: follow at once, not with the next tick.
        if self._bounds is not None:
            QtCore.QTimer.singleShot(0, self._follow)

    def show_outline(self, bounds: Bounds) -> None:
        """Draw the edge of `bounds`."""
        self._outline = True
        self._show(bounds)

    def hide(self) -> None:
        """Take it away until the next show."""
        self._timer.stop()
        self._bounds = None
        if self._sheet is not None:
            self._sheet.hide()

    def close(self) -> None:
        """Take it away for good."""
        self.hide()
        if self._sheet is not None:
            self._sheet.image = None
            self._sheet.deleteLater()
        self._sheet, self._image, self._picture = None, None, b""

    def _show(self, bounds: Bounds) -> None:
        self._bounds = bounds
        if not self._timer.isActive():
            self._timer.start(FOLLOW)
        self._follow()

    def _follow(self) -> None:
        active = host.is_active(self._doc)  # so it is open, without asking for all that are
        if self._bounds is None or not (active or host.is_open(self._doc)):
            self.hide()
            return
        canvas = host.active_canvas_widget() if active else None
        transform = image_to_canvas(self._doc, canvas) if canvas is not None else None
        if canvas is None or transform is None:
            if self._sheet is not None:
                self._sheet.hide()
            return
        sheet = self._sheet
        if sheet is None:
            sheet = self._sheet = _Sheet(canvas)
            sheet.destroyed.connect(self._lost)  # with its canvas
            self._dress(sheet)
        elif sheet.parentWidget() is not canvas:
            sheet.setParent(canvas)
        sheet.place(transform, self._bounds)
        if not sheet.isVisible():
            sheet.show()
            sheet.raise_()

    def _lost(self, *_: Any) -> None:
        self._sheet = None


class Frame:
    """The rectangle that will be used as context, drawn over the active view of `doc`."""

    def __init__(self, doc: Any) -> None:
        self._overlay = Overlay(doc)

    def show(self, bounds: Bounds) -> None:
        """Draw `bounds` (document pixels); follows zoom, pan, rotation and mirror."""
        self._overlay.show_outline(bounds)

    def hide(self) -> None:
        """Take it away."""
        self._overlay.close()
