# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin loads in the real Krita, its docker is there, and the canvas is the one that the run is about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.krita.session import CANVAS, Session

COMPILE = """
import pathlib, sys, warnings
compiled = []
with warnings.catch_warnings():
    warnings.simplefilter("error")
    for path in sorted(pathlib.Path(sys.modules["krita_sd"].__file__).parent.rglob("*.py")):
        if "_vendor" not in path.parts:
            compile(path.read_text("utf-8"), str(path), "exec")
            compiled.append(path.name)
"""


@pytest.mark.essential
def test_plugin_loads_and_the_docker_is_visible(session: Session) -> None:
    titles = session.eval("[d.windowTitle() for d in K.dockers()]")
    assert "Krita SD" in titles
    assert "krita_sd" not in session.log_tail(400).replace("krita_sd/", "")
    session.screenshot("smoke")


@pytest.mark.essential
def test_every_module_compiles_without_a_warning_in_the_python_of_this_krita(session: Session) -> None:
    """Those too that nothing has imported yet."""
    session.run(COMPILE)
    assert session.eval("len(compiled)") > 100


@pytest.mark.essential
def test_the_canvas_is_drawn_by_what_this_run_is_about(session: Session) -> None:
    """On OpenGL Mesa's library is in the memory of the process, and Krita reports its renderer; else it is not."""
    session.run("new_document(64, 64)")
    seen = session.wait("(canvas_state() or {}).get('class')", 60, "the canvas")
    assert seen == {"raster": "KisQPainterCanvas", "gl": "KisOpenGLCanvas2"}[CANVAS]
    assert session.krita is not None
    maps = Path(f"/proc/{session.krita.pid}/maps").read_text()
    assert bool(re.search(r"swrast_dri|libgallium", maps)) == (CANVAS == "gl")
    if CANVAS == "gl":
        log = (session.resources.parent / "krita-sysinfo.log").read_text(errors="replace")
        assert "llvmpipe" in log, log[-3000:]
