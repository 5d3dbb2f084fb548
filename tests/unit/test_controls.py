# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers: marks of a document, what is missing for a type, what a model gets; reports hold no secret."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krita_sd.controls import TITLES, ControlLayer, Marks, make_problem, problem_of
from krita_sd.diagnostics import report, tail, without_secrets
from krita_sd.view_lists import problem_of as belongs
from krita_sd.wire.errors import WireError
from krita_sd.wire.limits import MAX_CONTROLS
from krita_sd.wire.recipe import CONTROL_MAPS, CONTROLS, Recipe

ROOT = Path(__file__).resolve().parents[2]
SD1 = {"id": "m", "name": "dream", "kind": "checkpoint", "family": "sd1"}
POCKET = {"id": "pocket", "name": "Pocket", "kind": "checkpoint", "family": "sd1", "embedded": True}
KEYS = ("controls", "left_out", "layer", "type", "weight", "start", "on")
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=4,
)


def test_marks_survive_the_document_zeros_included() -> None:
    marks = Marks().with_control(ControlLayer("{a}", "canny", 0.0, 0.0, 0.5, False)).toggled("{b}")
    marks = marks.with_control(ControlLayer("{c}", "depth"))
    assert Marks.read(json.loads(json.dumps(marks.to_json()))) == marks
    assert marks.with_control(ControlLayer("{a}", "depth")).controls[1].type == "depth"
    assert marks.changed("{c}", weight=0.25).controls[1].weight == 0.25
    assert marks.toggled("{b}").left_out == () and marks.without("{a}").controls[0].layer == "{c}"


def test_marks_are_bounded() -> None:
    marks = Marks()
    for number in range(MAX_CONTROLS):
        marks = marks.with_control(ControlLayer(str(number), "canny"))
    with pytest.raises(WireError):
        marks.with_control(ControlLayer("more", "canny"))


@settings(max_examples=25)
@given(JSON)
def test_damaged_marks_of_a_foreign_document_are_left_out(data: Any) -> None:
    Marks.read(data)
    good = ControlLayer("{a}", "canny")
    assert Marks.read({"controls": [data, *Marks((good,)).to_json()["controls"]]}).controls[-1] == good


def test_every_type_of_the_wire_has_a_title_and_a_recipe_takes_it() -> None:
    assert set(TITLES) == set(CONTROLS)
    control = ControlLayer("{a}", "canny", 2.0, 0.75, 0.25).wire()
    made = Recipe(controls=(control.__class__(**{**control.__dict__, "image": "0" * 32}),))
    assert Recipe.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "type, entry, usable",
    [
        ("canny", {"name": "control_v11p_sd15_canny", "kind": "controlnet", "family": "sd1"}, True),
        ("line_art", {"name": "Line-Art.safetensors", "kind": "t2i_adapter", "family": ""}, True),
        ("depth", {"name": "union-promax", "kind": "controlnet", "family": "sd1"}, True),
        ("canny", {"name": "canny", "kind": "controlnet", "family": "sdxl"}, False),
        ("canny", {"name": "canny", "kind": "controlnet", "family": "sd1", "usable": False}, False),
        ("canny", {"name": "canny", "kind": "lora", "family": "sd1"}, False),
        ("reference", {"name": "ip-adapter_sd15", "kind": "ip_adapter", "family": "sd1"}, True),
        ("reference", {"name": "canny", "kind": "controlnet", "family": "sd1"}, False),
        ("style", {"name": "ip-adapter_sd15", "kind": "ip_adapter", "family": "sd1"}, True),
        ("composition", {"name": "ip-adapter_sd15", "kind": "ip_adapter", "family": "sdxl"}, False),
        ("style", {"name": "flux1-redux-dev", "kind": "redux", "family": ""}, False),
    ],
)
def test_what_is_missing_for_a_type_is_one_sentence(type: str, entry: dict[str, Any], usable: bool) -> None:
    problem = problem_of(type, [SD1, {"id": "c", **entry}], SD1)
    assert (problem == "") is usable
    assert usable or ("models folder" in problem and type.replace("_", " ") in problem)


def test_references_of_the_larger_models() -> None:
    flux, kontext = {"name": "dev", "family": "flux1"}, {"name": "k", "family": "flux1-kontext", "looks": True}
    redux = {"name": "flux1-redux-dev", "kind": "redux", "family": "flux1"}
    assert problem_of("reference", [redux], flux) == "" and problem_of("style", [redux], flux)
    assert "Redux" in problem_of("reference", [], flux)
    assert problem_of("reference", [], kontext) == "", "it looks itself"
    depth = {"name": "flux_depth", "kind": "controlnet", "family": "flux1"}
    assert problem_of("depth", [depth], kontext) == "" and problem_of("depth", [depth], {"family": "flux2"})


def test_the_embedded_models_own_control_serves_it_alone() -> None:
    own = {"id": "c", "name": "pocket line art", "kind": "controlnet", "family": "sd1", "embedded": True}
    assert problem_of("line_art", [own], POCKET) == "" and problem_of("line_art", [own], SD1)
    assert "embedded model" in problem_of("canny", [own], POCKET)
    lora = {"id": "l", "name": "ink", "kind": "lora", "family": "sd1"}
    assert not belongs(lora, SD1) and belongs(lora, POCKET) and belongs({**lora, "embedded": True}, SD1)


def test_maps_are_made_where_the_server_says_so() -> None:
    kinds = {"kinds": ["txt2img", "preprocess"]}
    assert [type for type in CONTROL_MAPS if make_problem(type, kinds)] == ["normal", "pose", "segmentation"]
    assert make_problem("pose", {**kinds, "maps": ["pose"]}) == ""
    depth = {"kind": "preprocessor", "maps": ["depth", "normal"], "usable": True}
    assert make_problem("normal", kinds, [{"kind": "lora"}, depth]) == "" and make_problem("pose", kinds, [depth])
    assert make_problem("normal", kinds, [{**depth, "usable": False}])
    assert "Update" in make_problem("canny", {})


def test_a_report_holds_no_token_no_prompt_and_no_home(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    token = "Zx9_" * 10
    log.write_text(
        "old\n" * 500
        + f"Authorization: Bearer {token}\nprompt='a secret \\'plan\\'' steps=3\n"
        + '{"prompt": "a hidden thing", "negative": "ugly"}\n'
        + f"{tmp_path}/models/x.safetensors\nws://user:pass@host/v1 short-token-1\nerror 0x1f ref 12ab\n"
    )
    text = report(
        "5.2.9", "5.15", "connected", {"name": "GPU"}, [{"name": "m", "bytes": 5}], {"server.log": tail(log)},
        str(tmp_path), ["short-token-1"],
    )  # fmt: skip
    for hidden in (token, "secret", "hidden", "ugly", str(tmp_path), "short-token-1", "user:pass"):
        assert hidden not in text, hidden
    assert "~/models/x.safetensors" in text and "error 0x1f ref 12ab" in text and "GPU" in text
    assert text.count("old") < 130 and tail(tmp_path / "none") == ""
    assert without_secrets("token: abc") == "token: (removed)"


def drawn() -> dict[str, Any]:
    """In the interpreter that has Qt: mean brightness, in percent, of what a model gets."""
    from krita_sd.control_pictures import prepared
    from krita_sd.qt import QtGui
    from krita_sd.wire.frames import Picture

    def picture(paper: str, ink: str) -> Any:
        image = QtGui.QImage(40, 40, QtGui.QImage.Format.Format_ARGB32)
        image.fill(QtGui.QColor(paper))
        painter = QtGui.QPainter(image)
        painter.fillRect(0, 0, 40, 4, QtGui.QColor(ink))
        painter.end()
        return Picture("bgra8", 40, 40, image.constBits().asstring(6400))

    def look(type: str, paper: str, ink: str) -> list[int]:
        data = prepared(picture(paper, ink), type).data
        assert len(data) == 6400 and data[3::4] == b"\xff" * 1600
        return [data[0], data[-4]]

    clear = "#00000000"
    return {
        "paper": look("scribble", "white", "black"),
        "black on nothing": look("line_art", clear, "black"),
        "red on nothing": look("canny", clear, "red"),
        "as the model wants it": look("canny", "black", "white"),
        "depth on nothing": look("depth", clear, "#808080"),
        "reference on nothing": look("reference", clear, "black"),
    }


def test_lines_are_white_on_black_for_the_model_however_they_were_drawn() -> None:
    """Seen to fail without the inversion: dark lines on paper reach the model as they are."""
    for python in filter(shutil.which, (sys.executable, "/usr/bin/python3")):
        if subprocess.run([python, "-c", "import PyQt5.QtGui"], capture_output=True, timeout=60).returncode == 0:
            break
    else:
        pytest.skip("no interpreter with PyQt5 here")
    # That interpreter has no pytest, so the function above is taken out of this file.
    code = "import json, ast; tree = ast.parse(open('tests/unit/test_controls.py').read()); "
    code += "[body] = [n for n in tree.body if getattr(n, 'name', '') == 'drawn']; "
    code += "space = {'Any': object}; exec(compile(ast.Module([body], []), 'x', 'exec'), space); "
    code += "print(json.dumps(space['drawn']()))"
    environ = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "paper": [255, 0],
        "black on nothing": [255, 0],
        "red on nothing": [255, 0],
        "as the model wants it": [255, 0],
        "depth on nothing": [128, 0],
        "reference on nothing": [0, 255],
    }
