# SPDX-License-Identifier: GPL-3.0-or-later
"""Live inside a worker: canvases, one waiting request each, and the frame that runs next.

The reading thread leaves patches and requests here and never waits for the machine; the main thread takes the newest.
A newer request supersedes a frame that is less than half done, but not twice in a row: steady beats starved.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from krita_sd.geometry import Extent, feather_and_grow, plan_render
from krita_sd.wire.errors import WireError, bad_request
from krita_sd.wire.frames import Picture
from krita_sd.wire.live import TILE
from krita_sd.wire.recipe import Recipe, steps_plan
from krita_sd.wire.values import or_default

from . import masks, pixels
from .controls import Layer, PartCache, control_layers
from .device import all_cores_but_one, is_out_of_memory
from .models import ModelCache
from .prepare import inversions_of, loras_of

if TYPE_CHECKING:
    from server.diffusion.live import LiveFrame, LiveSession, Wish
    from server.diffusion.live_canvas import DeviceCanvas
    from server.diffusion.live_guides import LiveControl

log = logging.getLogger(__name__)

Emit = Callable[..., None]

STEPS = 4
MIN_STEPS = 2
_TILE_BYTES = TILE * TILE * 4


@dataclass
class _Request:
    order: dict[str, Any]
    came: float


@dataclass(eq=False)
class _Room:
    """One live session. `tiles`: patches that are not on the device yet; `extent`: of a canvas that begins anew."""

    number: int
    extent: Extent | None = None
    tiles: dict[int, bytes] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    request: _Request | None = None
    stopped: bool = False
    canvas: DeviceCanvas | None = None
    session: LiveSession | None = None
    model: Any = None
    wish: tuple[Any, Wish] | None = None
    patient: bool = False


class LiveDesk:
    """`order`, `waiting` and `stop` are for any thread, the rest for the main one. `wake` is called on new requests."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._rooms: OrderedDict[int, _Room] = OrderedDict()
        self._ended: list[_Room] = []
        self.sessions = 0

    def order(self, order: dict[str, Any], payload: bytes) -> None:
        """Take an order of the front: live_patch, live_picture, live or live_stop."""
        do, number = order["do"], int(order["live"])
        with self._lock:
            if do == "live_stop":
                room = self._rooms.pop(number, None)
                if room is not None:
                    room.stopped = True
                    self._ended.append(room)
            else:
                room = self._rooms.setdefault(number, _Room(number))
                if do == "live_patch":
                    if order["whole"]:
                        room.extent, room.tiles = Extent(order["width"], order["height"]), {}
                    for place, index in enumerate(_indices(order["tiles"])):
                        room.tiles[index] = payload[place * _TILE_BYTES : (place + 1) * _TILE_BYTES]
                elif do == "live_picture":
                    picture = Picture(order["format"], order["width"], order["height"], payload)
                    room.pictures[order["hash"]] = picture
                else:
                    room.request = _Request(order, time.monotonic())
        self._wake()

    def waiting(self) -> bool:
        """Whether a frame can be begun, or something of a stopped session has to be put away."""
        with self._lock:
            return bool(self._ended) or any(room.request is not None for room in self._rooms.values())

    # Main thread -------------------------------------------------------------------------------------------------

    def park(self, keep: _Room | None = None) -> None:
        """Put models back as they were, before anything else uses them."""
        with self._lock:
            rooms = list(self._rooms.values())
        for room in rooms:
            if room is not keep and room.session is not None:
                room.session.park()

    def forget_models(self) -> None:
        """The models are about to be unloaded."""
        self.park()
        with self._lock:
            for room in self._rooms.values():
                room.session = room.model = room.wish = None

    def advance(self) -> bool:
        """Prepare something for later frames while nobody waits; False when there is nothing."""
        with self._lock:
            rooms = [room for room in self._rooms.values() if room.session is not None]
        return any(room.session.advance() for room in rooms if room.session is not None)

    def run(
        self, models: ModelCache, parts: PartCache, emit: Emit, unexpected: Callable[[Exception], WireError]
    ) -> None:
        """The next frame, from whichever session has waited longest for its turn."""
        self._put_away()
        with self._lock:
            room = next((room for room in self._rooms.values() if room.request is not None), None)
            if room is None or room.request is None:
                return
            self._rooms.move_to_end(room.number)
            request, room.request = room.request, None
            extent, room.extent = room.extent, None
            tiles, room.tiles = room.tiles, {}
        try:
            self._frame(room, request, extent, tiles, models, parts, emit)
        except Exception as error:  # the boundary of the process: a bug must not take the other jobs with it
            problem = error if isinstance(error, WireError) else unexpected(error)
            with self._lock:
                if tiles and room.extent is None:
                    # They did not reach the canvas: the next request builds on them.
                    room.extent, room.tiles = extent, {**tiles, **room.tiles}
            if not room.stopped:
                self._tell(room, request, emit, "failed", error=problem.to_json())

    def _put_away(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        for room in ended:
            if room.session is not None:
                room.session.park()

    def _frame(
        self,
        room: _Room,
        request: _Request,
        extent: Extent | None,
        tiles: dict[int, bytes],
        models: ModelCache,
        parts: PartCache,
        emit: Emit,
    ) -> None:
        from server.diffusion.live_canvas import DeviceCanvas

        order, started = request.order, time.monotonic()
        settings = order["model"]
        path = Path(settings["path"])
        if not models.peek(path):
            self._tell(room, request, emit, "loading")
        model = models.get(path, settings["family"], lambda: room.stopped, parts=settings.get("parts"))
        if extent is not None:
            room.canvas = DeviceCanvas(extent.width, extent.height, model.device)
        if room.canvas is None:
            raise bad_request("A live request came without its canvas.")
        room.canvas.patch(tiles)
        tiles.clear()
        patched = time.monotonic()
        self._session(room, model, path, models)
        wish = self._wish(room, order, path, parts)
        self.park(keep=room)

        def superseded(done: float) -> bool:
            return room.stopped or (room.request is not None and done < 0.5 and not room.patient)

        def render() -> tuple[LiveSession, LiveFrame | None]:
            assert room.canvas is not None
            session = self._session(room, model, path, models)
            with all_cores_but_one():
                return session, session.render(wish, room.canvas, superseded, bool(order.get("fit")))

        session, frame = self._on_some_rung(room, path, models, render)
        room.patient = frame is None
        if frame is None or room.stopped:
            return
        ms = {"queued": (started - request.came) * 1e3, "patch": (patched - started) * 1e3, **frame.ms}
        ms["total"] = (time.monotonic() - request.came) * 1e3
        described = Picture("bgra8", frame.extent.width, frame.extent.height, frame.data).describe()
        counts = {"sessions": self.sessions, **session.counts}
        rounded = {name: round(value, 2) for name, value in ms.items()}
        data = {"live": room.number, "generation": order["generation"], "ms": rounded, "counts": counts}
        data |= {"box": list(frame.box), "opaque": frame.opaque}
        emit("live", frame.data, **data, steps=frame.steps, **described)

    def _on_some_rung(
        self, room: _Room, path: Path, models: ModelCache, render: Callable[[], tuple[LiveSession, LiveFrame | None]]
    ) -> tuple[LiveSession, LiveFrame | None]:
        """The frame; once more per rung of the memory ladder when memory runs out, with nothing kept of before."""
        while True:
            try:
                return render()
            except Exception as error:  # every device has its own type for it; all else goes on
                if not is_out_of_memory(error) or not models.can_step_down(path):
                    raise
            # Outside the handler: its traceback holds what must be freed first.
            self.park()
            room.session = None
            models.step_down(path)

    @staticmethod
    def _tell(room: _Room, request: _Request, emit: Emit, state: str, **more: Any) -> None:
        emit("live_state", live=room.number, generation=request.order["generation"], state=state, **more)

    def _session(self, room: _Room, model: Any, path: Path, models: ModelCache) -> LiveSession:
        from server.diffusion.live import LiveSession

        if room.session is None or room.model is not model:
            assert room.canvas is not None
            plan = plan_render(room.canvas.extent, model.native)
            models.place(path, plan.extent.width, plan.extent.height, False)
            room.session, room.model, room.wish = LiveSession(model), model, None
            self.sessions += 1
        return room.session

    def _wish(self, room: _Room, order: dict[str, Any], path: Path, parts: PartCache) -> Wish:
        """What the order asks for; made once per recipe, and anew when a control model has been unloaded."""
        key = (order["recipe"], order["words"], order["model"])
        if room.wish is None or room.wish[0] != key or not _still_loaded(room.wish[1], parts):
            recipe = Recipe.from_json(order["recipe"], live=True)
            with self._lock:
                kept = {digest: room.pictures[digest] for digest in order["blobs"]}
                room.pictures = dict(kept)
            assert room.canvas is not None
            layers = control_layers(recipe, order["model"], kept, parts, lambda: room.stopped)
            room.wish = key, make_wish(recipe, order, kept, room.canvas.extent, _said(path), layers)
        return room.wish[1]


def make_wish(
    recipe: Recipe,
    order: dict[str, Any],
    pictures: dict[str, Picture],
    canvas: Extent,
    said: dict[str, Any],
    layers: Sequence[Layer] = (),
) -> Wish:
    """The engine's wish. `said`: what the model's folder says about Live: steps, sampler, guidance, lora (a file).

    layers: the recipe's control layers with their models.
    """
    from server.diffusion import Task
    from server.diffusion.live import Wish

    if (recipe.width, recipe.height) != tuple(canvas):
        raise bad_request("The canvas and the wanted picture have different sizes.")
    steps = int(or_default(recipe.steps, said.get("steps", STEPS)))
    minimum = int(or_default(recipe.min_steps, min(MIN_STEPS, steps)))
    total, start = steps_plan(steps, recipe.strength, minimum)
    sampler = str(or_default(recipe.sampler, said.get("sampler", "Euler trailing")))
    guidance = float(or_default(recipe.guidance, said.get("guidance", 1.0)))
    loras = loras_of(recipe, order["model"])
    if "lora" in said and sampler == said.get("sampler") and guidance <= 1.0:
        loras = (*loras, (said["lora"], 1.0))
    task = Task(
        prompt=order["words"]["prompt"],
        negative=order["words"]["negative"],
        seed=recipe.seed,
        total_steps=total,
        start_step=start,
        guidance=guidance,
        sampler=sampler,
        width=canvas.width,
        height=canvas.height,
        loras=loras,
        inversions=inversions_of(order["model"]),
        clip_skip=int(or_default(recipe.clip_skip, 0)),
        vae=Path(order["model"]["vae"]) if order["model"].get("vae") else None,
        wrap=recipe.tile,
    )
    selection = _selection(recipe, pictures, canvas) if recipe.kind == "inpaint" else None
    return Wish(task, recipe.strength, selection, tuple(map(_control, layers)))


def _control(layer: Layer) -> LiveControl:
    from server.diffusion.live_guides import LiveControl

    wish = layer.wish
    return LiveControl(
        (wish.image, id(layer.model)), layer.model, layer.map, wish.weight, wish.start, wish.end, wish.type
    )


def _still_loaded(wish: Wish, parts: PartCache) -> bool:
    return all(parts.holds(control.model) for control in wish.controls)


def _selection(recipe: Recipe, pictures: dict[str, Picture], canvas: Extent) -> Any:
    from server.diffusion.live import Selection

    picture = pictures[recipe.mask or ""]
    if (picture.format, picture.width, picture.height) != ("grey8", *canvas):
        raise bad_request("The mask and the canvas have different sizes.")
    chosen = pixels.grey_of(picture)
    box = masks.bounds(chosen)
    if box.is_empty:
        raise bad_request("The selection is empty, so nothing may change.", "Select an area first.")
    feather, grow = feather_and_grow(box, recipe.strength)
    feather, grow = int(or_default(recipe.feather, feather)), int(or_default(recipe.grow, grow))
    if recipe.exact_mask:
        feather = grow = 0
    denoise = masks.denoise_mask(chosen, grow, feather)
    composite = chosen if recipe.exact_mask else masks.composite_mask(chosen, feather)
    return Selection((recipe.mask, feather, grow, recipe.exact_mask), box, feather, grow, denoise, composite)


def _said(path: Path) -> dict[str, Any]:
    """`live` of a model folder's krita_sd.json, its values checked; its LoRA only if the file is inside the folder."""
    try:
        found = json.loads((path / "krita_sd.json").read_text("utf-8")).get("live", {})
        out: dict[str, Any] = {}
        if type(found.get("steps")) is int and 1 <= found["steps"] <= 50:
            out["steps"] = found["steps"]
        if isinstance(found.get("sampler"), str):
            out["sampler"] = found["sampler"]
        if isinstance(found.get("guidance"), (int, float)):
            out["guidance"] = float(found["guidance"])
        if isinstance(found.get("lora"), str):
            file = (path / found["lora"]).resolve()
            if file.is_relative_to(path.resolve()) and file.is_file():
                out["lora"] = file
        return out
    except (OSError, ValueError, AttributeError):
        return {}


def _indices(runs: list[list[int]]) -> list[int]:
    return [index for first, count in runs for index in range(first, first + count)]
