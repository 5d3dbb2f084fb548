# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of what each family can do: equal to the engine's own tables, and to the page made from it."""

from __future__ import annotations

from pathlib import Path

from server.library.capabilities import CAPABILITIES, CONTROLLED, FILES, FLOW_SAMPLERS, families_json, models_page

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_is_current() -> None:
    make = "python -c 'from server.library.capabilities import models_page as page; print(page(), end=\"\")'"
    assert PAGE.read_text("utf-8") == models_page(), f"run {make} > docs/models.md"


def test_the_rows_are_the_engines() -> None:
    from server.diffusion.families import FAMILIES
    from server.diffusion.features.control_flow import FLOW_NETS
    from server.diffusion.schedules import DIFFUSION, FLOW
    from server.diffusion.task import SAMPLERS

    assert set(CAPABILITIES) == set(FAMILIES)
    assert {family for family, row in FAMILIES.items() if row.layout} == FILES
    assert set(FLOW_SAMPLERS) == set(FLOW) and set(SAMPLERS) == set(DIFFUSION)
    assert {family for fits in FLOW_NETS.values() for family in fits} == CONTROLLED - {"sd1", "sd2", "sdxl"}


def test_the_hello_carries_every_row() -> None:
    rows = families_json()
    assert rows["sdxl"]["title"] == "Stable Diffusion XL" and rows["sdxl"]["negative"] is True
    assert rows["flux1"]["samplers"] == FLOW_SAMPLERS and rows["flux1"]["negative"] is False
    assert all(row["note"] == "" or row["note"].endswith(".") for row in rows.values())
