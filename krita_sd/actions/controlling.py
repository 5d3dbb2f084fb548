# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers: marking a layer, making one from the canvas, changing and unmarking it."""

from __future__ import annotations

import functools
import uuid
from typing import Any

from krita_sd import job_events as ev
from krita_sd import view
from krita_sd.actions.core import Core
from krita_sd.actions.documents import Documents
from krita_sd.actions.part import Part
from krita_sd.actions.results import Results
from krita_sd.canvas import capture, host, nodes
from krita_sd.controls import TITLES, ControlItem, ControlLayer, Marks, make_problem, problem_of
from krita_sd.geometry import Bounds
from krita_sd.guarded import guarded
from krita_sd.job_events import Phase
from krita_sd.link import Draft
from krita_sd.text import tr
from krita_sd.view_lists import Choice
from krita_sd.wire.errors import Code, WireError, bad_request
from krita_sd.wire.frames import Picture
from krita_sd.wire.limits import MAX_PICTURE
from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.recipe import CONTROL_MAPS, Recipe


class Controlling(Part):
    """`items` and the two lists of types are what the docker draws."""

    def __init__(self, core: Core, documents: Documents, results: Results) -> None:
        super().__init__(core)
        self._documents = documents
        self._results = results
        self._made: dict[str, str] = {}
        self._readers: dict[str, capture.Capture] = {}
        self._seen: tuple[dict[str, str], set[str]] = ({}, set())
        core.not_read = self.not_read
        results.stage.layer_made.connect(self._layer_made)

    # What is drawn ---------------------------------------------------------------------------------------------------

    @property
    def items(self) -> tuple[ControlItem, ...]:
        names, visible = self._seen
        rows = []
        for control in self._documents.marks.controls:
            problem = "" if control.layer in names else tr("The layer is gone: unmark it, or undo.")
            problem = problem or problem_of(control.type, self.core.models, self._entry())
            rows.append(ControlItem(control, names.get(control.layer, ""), control.layer in visible, problem))
        return tuple(rows)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the layers that are left out of the input."""
        names = self._seen[0]
        return tuple(names[id] for id in self._documents.marks.left_out if id in names)

    def types(self) -> tuple[Choice, ...]:
        """Every type, with what is missing for it."""
        entry = self._entry()
        return tuple(Choice(t, tr(TITLES[t]), "", problem_of(t, self.core.models, entry)) for t in TITLES)

    def makeable(self) -> tuple[Choice, ...]:
        """Types that can be made from the canvas, with the reason where not."""
        features = self.core.features
        return tuple(Choice(t, tr(TITLES[t]), "", make_problem(t, features, self.core.models)) for t in CONTROL_MAPS)

    def _entry(self) -> Any:
        return view.model_entry(self.core.models, self.core.settings.model)

    def looked(self, doc: Any, scene: Any) -> None:
        marks = self._documents.marks
        ids = [control.layer for control in marks.controls] + list(marks.left_out)
        seen = (nodes.names(doc, ids), nodes.shown(doc, ids)) if doc is not None and ids else ({}, set())
        if seen != self._seen:
            self._seen = seen
            self.core.redraw()

    # What the painter does -------------------------------------------------------------------------------------------

    @guarded
    def mark_active(self, type: str) -> None:
        """The active layer steers the next pictures."""
        _doc, node = _active()
        self._change(self._documents.marks.with_control(ControlLayer(nodes.id_of(node), type)))

    @guarded
    def leave_out_active(self) -> None:
        """The active layer is no part of the input, or is again."""
        _doc, node = _active()
        id = nodes.id_of(node)
        self._change(self._documents.marks.toggled(id))
        out = id in self._documents.marks.left_out
        text = "The layer {name} is left out of the input." if out else "The layer {name} is part of the input again."
        self.say(tr(text, name=node.name()))
        if out and self.core.settings.source == "visible":
            self.core.change(source="unmarked layers")

    @guarded
    def change_layer(self, layer: str, **changes: Any) -> None:
        """Another type, weight or range, or on and off."""
        self._change(self._documents.marks.changed(layer, **changes))

    @guarded
    def unmark(self, layer: str) -> None:
        """The layer is an ordinary one again."""
        self._change(self._documents.marks.without(layer))

    @guarded
    def unmark_active(self) -> None:
        """The same for the active layer."""
        self.unmark(nodes.id_of(_active()[1]))

    @guarded
    def show_layer(self, layer: str, on: bool) -> None:
        """Show or hide the layer in the document: its preview."""
        doc = host.active_document()
        if doc is not None and not nodes.show(doc, layer, on):
            self.say(tr("The document is busy. Try again when the pen is up."))

    def _change(self, marks: Marks) -> None:
        self._documents.mark(marks)

    # Made from the canvas --------------------------------------------------------------------------------------------

    @guarded
    def make(self, type: str) -> None:
        """A new layer with the map of what is visible; it steers from then on."""
        core = self.core
        doc = core.begin()
        problem = make_problem(type, core.features, core.models) if core.table.connected else ""
        if problem:
            raise WireError(Code.UNSUPPORTED, problem)
        scene = capture.describe(doc)
        bounds = Bounds.of(scene.extent)
        if bounds.extent.pixels * 4 > MAX_PICTURE:
            raise bad_request(
                tr("The document is too large for a control layer."), tr("Crop it, or paint the layer by hand.")
            )
        job = uuid.uuid4().hex
        recipe = Recipe("preprocess", core.settings.model, width=bounds.width, height=bounds.height, map=type)
        self._results.stage.remember(scene.doc_id, doc)
        self._made[job] = type
        core.feed(ev.Created(job, scene.doc_id, bounds, recipe))
        reader = capture.Capture(doc, bounds, without=nodes.uuids(self.not_read(scene.doc_id)))
        self._readers[job] = reader
        reader.start(functools.partial(self._captured, job), functools.partial(self._unread, job))

    def not_read(self, document: str) -> list[str]:
        """Ids of the layers of a document that its composite must not show: control layers never feed back."""
        marks = self._documents.marks_of(document)
        hidden = [control.layer for control in marks.controls]
        return hidden + (list(marks.left_out) if self.core.settings.source == "unmarked layers" else [])

    @guarded
    def _captured(self, job: str, picture: bytes, _mask: bytes | None) -> None:
        self._readers.pop(job, None)
        entry = self.core.table.jobs[job]
        if not entry.active:
            return
        image = Picture("bgra8", entry.bounds.width, entry.bounds.height, picture)
        self.core.link.submit(Draft(job, entry.recipe, image, previews=PreviewWish("off")))
        self.core.feed(ev.Captured(job))

    @guarded
    def _unread(self, job: str, text: str) -> None:
        self._readers.pop(job, None)
        self.core.feed(ev.JobFailed(job, WireError(Code.BAD_REQUEST, text)))

    def active_in(self, document: str) -> list[ControlLayer]:
        """The control layers of a document that act on its next picture. Raises WireError when one cannot."""
        acting = [entry for entry in self._documents.marks_of(document).controls if entry.on and entry.weight > 0]
        for control in acting:
            problem = problem_of(control.type, self.core.models, self._entry())
            if problem and self.core.table.connected:
                raise WireError(
                    Code.UNSUPPORTED, tr("{title} cannot steer this model.", title=tr(TITLES[control.type])), problem
                )
        return acting

    def fed(self, event: Any) -> None:
        if isinstance(event, ev.ResultArrived) and event.job in self._made:
            self.core.later(functools.partial(self._arrived, f"{event.job}:{event.index}"))
        elif isinstance(event, (ev.CancelPressed, ev.JobFailed)) and event.job in self._readers:
            self._readers.pop(event.job).cancel()
        elif isinstance(event, ev.StateChanged) and event.phase in (Phase.FAILED, Phase.CANCELLED):
            self._made.pop(event.job, None)

    def _arrived(self, key: str) -> None:
        """The map is here: it becomes a layer without being asked for again."""
        result = self.core.table.results.get(key)
        if result is None or result.applied:
            return
        if self._results.stage.apply(result, "top", "", lambda: None):
            self.core.feed(ev.Applied(key))

    @guarded
    def _layer_made(self, doc: Any, node: Any, result: Any) -> None:
        type = self._made.pop(result.job, None)
        if type is None:
            return
        self.core.feed(ev.Discarded(result.key))  # it is no picture to choose from
        document = host.document_id(doc)
        control = ControlLayer(nodes.id_of(node), type)
        self._documents.mark(self._documents.marks_of(document).with_control(control), document)
        # A map over the painting would hide it; the eye in the list shows it again.
        nodes.show(doc, control.layer, False)
        problem = problem_of(type, self.core.models, self._entry())
        if problem:
            self.say(problem, True)
        else:
            text = "{title} steers the next pictures. Its layer is hidden; paint on it to correct it."
            self.say(tr(text, title=tr(TITLES[type])))


def _active() -> tuple[Any, Any]:
    doc = host.active_document()
    node = nodes.active(doc) if doc is not None else None
    if node is None:
        raise bad_request(tr("No layer is active."), tr("Choose the layer in Krita's layer list first."))
    return doc, node
