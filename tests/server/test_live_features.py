# SPDX-License-Identifier: GPL-3.0-or-later
"""Live with what a painter adds to a recipe, over the real websocket: control layers, another VAE, seamless edges."""

from __future__ import annotations

from krita_sd.wire.recipe import Control
from tests.server.harness import Painter
from tests.server.test_features import bgra, folder, home, lines, painter
from tests.server.test_live import Pen

__all__ = ["folder", "home", "painter"]  # fixtures


async def test_live_follows_control_layers_vae_and_tiling(painter: Painter) -> None:
    pen = Pen(painter)
    plain = (await pen.frame(pen.ask())).picture
    drawn = bgra(lines())
    control = Control("line_art", drawn.hash)
    steered = (await pen.frame(pen.ask({}, (drawn,), controls=(control,)))).picture
    assert steered != plain
    weak = Control("line_art", drawn.hash, 0.0)
    assert (await pen.frame(pen.ask({}, (drawn,), controls=(weak,)))).picture == plain
    assert painter.client.core.welcome is not None
    ids = {entry["name"]: entry["id"] for entry in painter.client.core.welcome.models}
    with_vae = (await pen.frame(pen.ask({}, controls=(), vae=ids["warm"]))).picture
    seamless = (await pen.frame(pen.ask({}, vae="", tile="xy"))).picture
    assert len({steered.data, plain.data, with_vae.data, seamless.data}) == 4
    assert (await pen.frame(pen.ask({}, tile=""))).picture == plain
    assert not [status for status in pen.statuses if status.state.text], "nothing is left out"
