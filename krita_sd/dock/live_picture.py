# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of Live beside the canvas: the content of its own docker. Runs without Krita."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets, tr


class LivePicture(QtWidgets.QWidget):
    """Draws a QImage as large as there is room, in its own proportions; a sentence while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("krita_sd_live_picture")
        self.setAccessibleName(tr("Live picture"))
        self.setMinimumSize(96, 96)
        self._image: Any = None

    @property
    def has_picture(self) -> bool:
        """Whether a picture is shown."""
        return self._image is not None

    def show_image(self, image: Any) -> None:
        """Show a QImage, or nothing when None."""
        self._image = image
        self.update()

    def sizeHint(self) -> Any:  # noqa: N802 (Qt's name)
        return QtCore.QSize(256, 256)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        painter = QtGui.QPainter(self)
        room = QtCore.QRectF(self.rect())
        if self._image is None:
            text = tr("Live shows its picture here.")
            option = QtGui.QTextOption(Qt.AlignmentFlag.AlignCenter)
            painter.drawText(room, text, option)
        else:
            size = QtCore.QSizeF(self._image.size())
            size.scale(room.size(), Qt.AspectRatioMode.KeepAspectRatio)
            box = QtCore.QRectF(QtCore.QPointF(0, 0), size)
            box.moveCenter(room.center())
            painter.setRenderHint(QtGui.QPainter.RenderHint.SmoothPixmapTransform)
            painter.drawImage(box, self._image)
        painter.end()
