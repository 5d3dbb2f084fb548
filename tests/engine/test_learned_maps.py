# SPDX-License-Identifier: GPL-3.0-or-later
"""Control maps by trained models: tiny random ones through the loader, and what is made of their numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion.preprocess import control_map
from server.diffusion.preprocess.bodies import colour_of, drawn, joints
from server.diffusion.preprocess.learned import COLOURS, Preprocessor, load_preprocessor, normals
from server.library import Library
from tests.engine.conftest import picture


def depth_model() -> Any:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    names = ["stem", "stage1", "stage2", "stage3", "stage4"]
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14,
        out_features=names[1:], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            head_hidden_size=4, patch_size=14,
        )
    )  # fmt: skip


def segmentation_model(classes: int = 150) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
            num_labels=classes,
        )
    )  # fmt: skip


def pose_model() -> Any:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    backbone = VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        mlp_ratio=1, out_indices=[1],
    )  # fmt: skip
    return VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17))


def saved(model: Any, folder: Path, size: int = 28) -> Path:
    """The weights of a tiny model in a folder as people have it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.0 if name.endswith("bias") else 0.3)
    model.eval().save_pretrained(folder)
    shape = f'{{"height": {size}, "width": {size}}}'
    (folder / "preprocessor_config.json").write_text(f'{{"size": {shape}, "do_resize": true}}')
    return folder / "model.safetensors"


def test_depth_and_normals_of_a_model(tmp_path: Path) -> None:
    made = depth_model()
    model = load_preprocessor(saved(made, tmp_path / "depth"))
    image = picture(90, 60)
    found = control_map(image, "depth", model)
    inputs = model.reader(images=image, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 28, 28)
    wanted = made(**inputs).predicted_depth[None]
    wanted = torch.nn.functional.interpolate(wanted, (60, 90), mode="bilinear")[0, 0].detach()
    wanted = ((wanted - wanted.min()) / (wanted.max() - wanted.min()) * 255).numpy()
    assert found.shape == image.shape and found.min() == 0 and found.max() == 255
    assert np.abs(found[..., 0] - wanted).max() < 0.51
    model.module.config.depth_estimation_type = "metric"
    assert np.abs(255 - found[..., 0].astype(int) - control_map(image, "depth", model)[..., 0]).max() <= 1
    facing = control_map(image, "normal", model).astype(np.float32) / 127.5 - 1.0
    assert np.allclose(np.linalg.norm(facing, axis=-1), 1.0, atol=0.02) and (facing[..., 2] > 0).all()


def test_normals_face_away_from_what_is_near() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    ball = np.sqrt(np.clip(1 - x * x - y * y, 0, None)).astype(np.float32)
    made = normals(ball).astype(int)
    assert made[32, 52, 0] > 160 and made[32, 12, 0] < 96, "red to the right"
    assert made[12, 32, 1] > 160 and made[52, 32, 1] < 96, "green up"
    assert np.abs(made[32, 32] - (128, 128, 255)).max() <= 6
    assert (normals(np.zeros((1, 5), np.float32)) == (128, 128, 255)).all()


def test_segments_have_the_colours_of_their_classes(tmp_path: Path) -> None:
    made = segmentation_model()
    model = load_preprocessor(saved(made, tmp_path / "segments", 64))
    image = picture(70, 50)
    found = control_map(image, "segmentation", model)
    out = made(**model.reader(images=image, return_tensors="pt"))
    (classes,) = model.reader.post_process_semantic_segmentation(out, target_sizes=[(50, 70)])
    assert len(classes.unique()) > 1
    assert np.array_equal(found, COLOURS[classes.numpy()])
    assert COLOURS.shape == (150, 3)
    # Wall, sky, person and flag, as in the table that was published with the data set.
    assert [tuple(COLOURS[n].tolist()) for n in (0, 2, 12, 149)] == [
        (120, 120, 120), (6, 230, 230), (150, 5, 61), (92, 0, 255),
    ]  # fmt: skip


def test_a_pose_model_sees_the_whole_picture(tmp_path: Path) -> None:
    model = load_preprocessor(saved(pose_model(), tmp_path / "pose"))
    model.module.config.backbone_config.image_size = [64, 48]
    assert control_map(picture(60, 90), "pose", model).shape == (90, 60, 3)


def test_points_come_back_to_where_they_are_in_the_picture() -> None:
    """A model that answers with the brightest place of what it sees: that place is found in the picture."""

    class Bright(torch.nn.Module):
        config = SimpleNamespace(backbone_config=SimpleNamespace(image_size=[256, 192]))
        device = torch.device("cpu")

        def forward(self, pixel_values: torch.Tensor) -> Any:
            grey = torch.nn.functional.avg_pool2d(pixel_values.mean(dim=1, keepdim=True), 4)
            return SimpleNamespace(heatmaps=grey.expand(1, 17, -1, -1))

    for width, height in ((300, 200), (120, 400)):
        image = np.zeros((height, width, 3), np.uint8)
        x, y = width * 2 // 3, height // 4
        image[y - 8 : y + 8, x - 8 : x + 8] = 255
        found = control_map(image, "pose", Preprocessor("bright", ("pose",), Bright()))
        rows, columns = np.nonzero(found.any(axis=-1))
        assert abs(columns.mean() - x) < 8 and abs(rows.mean() - y) < 8


def test_bodies_are_drawn_from_what_is_seen() -> None:
    points = np.zeros((17, 2), np.float32)
    points[5], points[6], points[8] = (60, 40), (20, 40), (10, 80)  # both shoulders, the right elbow
    certain = np.zeros(17, np.float32)
    certain[[5, 6, 8]] = 0.9
    body = joints(points, certain)
    assert body[1] == (40.0, 40.0) and body[2] == (20.0, 40.0) and body[0] is None and body[7] is None
    made = drawn(body, 128, 128)
    assert tuple(made[40, 40]) == colour_of(1) == (255, 85, 0) and tuple(made[80, 10]) == colour_of(3)
    assert tuple(made[40, 30]) == (153, 0, 0), "from the neck to the right shoulder, darker"
    certain[6] = 0.1
    assert joints(points, certain)[1] is None, "no neck without both shoulders"
    assert not drawn([None] * 18, 16, 16).any()


def test_the_library_knows_them_by_their_configuration(tmp_path: Path) -> None:
    saved(depth_model(), tmp_path / "some-name")
    saved(segmentation_model(), tmp_path / "ade")
    saved(segmentation_model(19), tmp_path / "streets")
    saved(pose_model(), tmp_path / "depth-anything")
    decoy = saved(segmentation_model(), tmp_path / "decoy")
    (decoy.parent / "config.json").write_text('{"architectures": ["SomethingElse"]}')
    library = Library([tmp_path], None)
    library.scan()
    told = {entry.name: entry for entry in library.entries}
    maps = {name: (entry.to_json().get("maps"), entry.usable) for name, entry in told.items() if name != "decoy"}
    assert maps == {
        "some-name": (["depth", "normal"], True),
        "ade": (["segmentation"], True),
        "streets": (["segmentation"], False),
        "depth-anything": (["pose"], True),
    }
    assert "19 classes" in told["streets"].problem and "ADE20K" in told["streets"].problem
    assert told["decoy"].kind != "preprocessor" and not told["decoy"].usable


@pytest.mark.parametrize("damage", ["gone", "no weights of its own", "cut", "no configuration"])
def test_models_that_cannot_be_used_are_one_sentence(damage: str, tmp_path: Path) -> None:
    path = saved(segmentation_model(), tmp_path / "model")
    if damage == "gone":
        path.unlink()
    elif damage == "no weights of its own":
        saved(pose_model(), tmp_path / "other")
        path.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        (path.parent / "config.json").unlink()
    with pytest.raises(WireError) as caught:
        load_preprocessor(path)
    assert caught.value.code is (Code.MODEL_MISSING if damage == "gone" else Code.MODEL_CORRUPT) and caught.value.hint
