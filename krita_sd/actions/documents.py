# SPDX-License-Identifier: GPL-3.0-or-later
"""Every document keeps what the docker is set to, and the marks on its layers; both are saved in the .kra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.canvas import annotation, aside, host, previews
from krita_sd.controls import Marks
from krita_sd.guarded import guarded
from krita_sd.qt import QtCore, tr

SAVE_MS = 1200
MAX_DOCUMENTS = 200
"""States of closed documents are forgotten beyond this number."""


OWN_SAVE = 60.0
"""Seconds in which Krita has written what the painter saved. A save that nobody asked for is another plugin's."""


class Documents(Part):
    """`marks` are those of the active document. A new document begins with what the docker is set to."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._current = ""
        self._doc: Any = None
        self._settings: dict[str, dict[str, Any]] = {}
        self._marks: dict[str, Marks] = {}
        self._saved: Any = None
        self._timer = QtCore.QTimer(core, interval=SAVE_MS, singleShot=True)
        self._timer.timeout.connect(self._save)
        core.changed.connect(self._notice)

    def started(self) -> None:
        host.krita().notifier().imageSaved.connect(self._image_saved)

    @guarded
    def _image_saved(self, path: str) -> None:
        """A script's save cannot be seen coming, so it holds the preview; a .kra loses it when it is opened."""
        if path.lower().endswith((".kra", ".krz")) or aside.aside().seconds < OWN_SAVE:
            return
        if any(doc.fileName() == path and previews.written(doc) for doc in host.open_documents()):
            text = "{name} was saved by a script while a picture that is not applied was shown in it. Save it again."
            self.say(tr(text, name=Path(path).name), True)

    @property
    def marks(self) -> Marks:
        return self.marks_of(self._current)

    def marks_of(self, document: str) -> Marks:
        """Of any document by its id."""
        return self._marks.get(document, Marks())

    def mark(self, marks: Marks, document: str = "") -> None:
        """Change the marks of a document, the active one by default."""
        self._marks[document or self._current] = marks
        self.core.redraw()

    def looked(self, doc: Any, scene: Any) -> None:
        if scene is None or scene.doc_id == self._current:
            return
        self._leave()
        self._current, self._doc = scene.doc_id, doc
        if scene.doc_id in self._settings:
            self.core.settings_of_document(self._settings[scene.doc_id])
        else:
            self._read(doc)
        self._saved = self._state()
        self.core.redraw()

    def _leave(self) -> None:
        """Another document comes: what is set belongs to the old one."""
        if self._current:
            self._settings[self._current] = self.core.settings.of_document()
            for name in list(self._settings)[:-MAX_DOCUMENTS]:
                del self._settings[name]
            self._save()

    def _read(self, doc: Any) -> None:
        state = annotation.load(doc)
        if isinstance(state, dict):
            self._marks[self._current] = Marks.read(state.get("marks"))
            self.core.settings_of_document(state.get("settings"))

    def _state(self) -> dict[str, Any]:
        return {"version": 1, "settings": self.core.settings.of_document(), "marks": self.marks.to_json()}

    def _notice(self) -> None:
        if self._current and not self._timer.isActive() and self._state() != self._saved:
            self._timer.start()

    @guarded
    def _save(self) -> None:
        self._timer.stop()
        state = self._state()
        if self._doc is not None and host.is_open(self._doc) and state != self._saved:
            self._saved = state
            annotation.save(self._doc, state)
