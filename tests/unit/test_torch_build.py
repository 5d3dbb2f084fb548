# SPDX-License-Identifier: GPL-3.0-or-later
"""Which torch is installed: the hardware, the offers of pip's sources, the user's word."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from server.setup import SetupError
from server.setup.environment import Environment, PipRun, Progress
from server.setup.torch_build import Build, Machine, Plan, best_kind, choose, fits, in_range, is_requirement, kind_of

LINUX = Machine("Linux", "x86_64")
WINDOWS = Machine("Windows", "AMD64")
MAC = Machine("Darwin", "arm64")

NVIDIA = ["filelock", 'nvidia-cudnn-cu13==9.1; platform_system == "Linux"', 'optree; extra == "optree"']


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        (LINUX, "cpu"),
        (Machine("Linux", "x86_64", nvidia=True, amd=True, intel=True), "cuda"),
        (Machine("Linux", "x86_64", amd=True, intel=True), "rocm"),
        (Machine("Linux", "x86_64", intel=True), "xpu"),
        (Machine("Windows", "AMD64", nvidia=True), "cuda"),
        (WINDOWS, "cpu"),
        (MAC, "mps"),
        (Machine("Darwin", "x86_64"), "cpu"),
    ],
)
def test_auto_follows_the_hardware(machine: Machine, kind: str) -> None:
    assert best_kind(machine) == kind


@pytest.mark.parametrize(
    ("number", "requires", "machine", "kind"),
    [
        ("2.13.0+cpu", [], LINUX, "cpu"),
        ("2.13.0+cu130", [], WINDOWS, "cuda"),
        ("2.13.0+rocm7.2", [], LINUX, "rocm"),
        ("2.13.0+xpu", [], LINUX, "xpu"),
        ("2.13.0", NVIDIA, LINUX, "cuda"),
        ("2.13.0", NVIDIA, WINDOWS, "cpu"),
        ("2.13.0", NVIDIA, MAC, "mps"),
        ("2.13.0", ['cuda-toolkit==13.2; platform_system == "Linux"'], LINUX, "cuda"),
        ("2.13.0", ['triton; platform_system == "Linux" and platform_machine == "x86_64"'], LINUX, "cuda"),
        (
            "2.13.0",
            ['triton; platform_system == "Linux" and platform_machine == "x86_64"'],
            Machine("Linux", "aarch64"),
            "cpu",
        ),
        ("2.13.0", ["pytorch-triton-rocm==3"], LINUX, "rocm"),
        ("2.13.0", ["filelock", "sympy"], LINUX, "cpu"),
    ],
)
def test_the_kind_of_a_build_is_read_from_tag_or_companions(
    number: str, requires: list[str], machine: Machine, kind: str
) -> None:
    assert kind_of(number, requires, machine) == kind


def test_ranges_and_requirements() -> None:
    assert in_range("2.8.0") and in_range("2.13.0+cpu") and not in_range("2.7.1") and not in_range("3.0.0")
    assert is_requirement("torch==2.13.0") and is_requirement("torch>=2.9,<3") and is_requirement("/x/torch-2.whl")
    assert not is_requirement("torchvision") and not is_requirement("gpu")
    assert fits("mps", "cpu", MAC) and not fits("cuda", "cpu", LINUX)


class Offers(Environment):
    """An environment whose pip knows these versions: {None or index URL: (version, requirements)}."""

    def __init__(self, offers: dict[str | None, tuple[str, list[str]]], present: Build | None = None) -> None:
        super().__init__(Path("/nonexistent"))
        self.offers, self.present = offers, present
        self.asked: list[str | None] = []

    def held(self, *names: str) -> dict[str, dict[str, Any]]:
        return {"torch": {"version": self.present.version, "requires": []}} if self.present else {}

    def satisfies(self, requirement: str) -> bool:
        return False

    def pip(self, arguments: Any, say: Any, quiet: bool = False) -> PipRun:
        index = arguments[arguments.index("--extra-index-url") + 1] if "--extra-index-url" in arguments else None
        if index:
            assert "--timeout" in arguments and "--retries" in arguments
        self.asked.append(index)
        if index not in self.offers:
            return PipRun(1, ["ERROR: nothing matches"])
        number, requires = self.offers[index]
        report = {"install": [{"metadata": {"version": number, "requires_dist": requires}}]}
        Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps(report))
        return PipRun(0, [])


BASE = "https://download.pytorch.org/whl/"
GPU = Machine("Linux", "x86_64", nvidia=True)


@pytest.mark.parametrize(
    ("wanted", "machine", "offers", "plan"),
    [
        # The user's own sources have the right kind: nobody else is asked.
        ("auto", LINUX, {None: ("2.13.0+cpu", [])}, Plan("torch==2.13.0+cpu")),
        ("cuda", LINUX, {None: ("2.13.0", NVIDIA)}, Plan("torch==2.13.0")),
        ("auto", MAC, {None: ("2.13.0", [])}, Plan("torch==2.13.0")),
        ("cpu", WINDOWS, {None: ("2.13.0", [])}, Plan("torch==2.13.0")),
        # The wrong kind, or nothing: PyTorch's index.
        (
            "auto",
            LINUX,
            {None: ("2.13.0", NVIDIA), BASE + "cpu": ("2.13.0+cpu", [])},
            Plan("torch==2.13.0+cpu", BASE + "cpu"),
        ),
        ("cpu", LINUX, {BASE + "cpu": ("2.13.0+cpu", [])}, Plan("torch==2.13.0+cpu", BASE + "cpu")),
        (
            "auto",
            GPU,
            {None: ("2.13.0+cpu", []), BASE + "cu126": ("2.13.0+cu126", [])},
            Plan("torch==2.13.0+cu126", BASE + "cu126"),
        ),
        # A GPU machine without a network still gets a working server.
        ("auto", GPU, {None: ("2.13.0+cpu", [])}, Plan("torch==2.13.0+cpu")),
        # The user's word is taken as it is.
        ("torch==2.12.0", LINUX, {}, Plan("torch==2.12.0")),
    ],
)
def test_the_torch_build_is_chosen(
    wanted: str, machine: Machine, offers: dict[str | None, tuple[str, list[str]]], plan: Plan
) -> None:
    environment = Offers(offers)
    assert choose(environment, wanted, machine, lambda _: None) == plan
    if plan.index is None and wanted == "auto" and machine is LINUX:
        assert environment.asked == [None]


def test_an_impossible_build_is_one_sentence_and_no_substitute() -> None:
    with pytest.raises(SetupError, match="No NVIDIA .* build of torch .* could be found"):
        choose(Offers({None: ("2.13.0+cpu", [])}), "cuda", LINUX, lambda _: None)
    with pytest.raises(SetupError, match="No CPU build"):
        choose(Offers({None: ("2.13.0", NVIDIA)}), "auto", LINUX, lambda _: None)


@pytest.mark.parametrize(
    ("present", "wanted", "machine", "kept"),
    [
        ("2.12.1+cpu", "auto", LINUX, True),
        ("2.12.1+cpu", "auto", GPU, True),
        ("2.12.1+cpu", "cpu", LINUX, True),
        ("2.12.1+cpu", "cuda", GPU, False),
        ("2.7.0+cpu", "auto", LINUX, False),
    ],
)
def test_a_torch_that_is_there_and_right_is_kept(present: str, wanted: str, machine: Machine, kept: bool) -> None:
    own = "2.13.0+cpu" if wanted == "auto" else "2.13.0+cu130"
    environment = Offers({None: (own, [])}, Build(present, "cpu"))
    assert (choose(environment, wanted, machine, lambda _: None) is None) == kept
    assert bool(environment.asked) != kept


def test_pip_output_is_told_in_short() -> None:
    said: list[str] = []
    progress = Progress(said.append)
    for line in (
        "Collecting torch==2.13.0",
        "  Downloading torch-2.13.0%2Bcpu-cp311-cp311-linux.whl.metadata (29 kB)",
        "Downloading torch-2.13.0%2Bcpu-cp311-cp311-linux.whl (200.0 MB)",
        "Progress 1000 of 200000000",
        "Progress 20000000 of 200000000",
        "Progress 20010000 of 200000000",
        "Progress 200000000 of 200000000",
        "Processing /wheels/sympy-1.14.0-py3-none-any.whl (from torch)",
        "Installing collected packages: sympy, torch",
    ):
        progress.feed(line)
    assert said == [
        "downloading torch 2.13.0+cpu (200.0 MB)",
        "  10 % of 200 MB",
        "  100 % of 200 MB",
        "found sympy 1.14.0",
        "installing 2 packages",
    ]


def test_the_reason_names_an_address_that_does_not_answer() -> None:
    broken = "Retrying after connection broken by 'NewConnectionError('<x>: [Errno -2]')': /whl/cpu"
    assert PipRun(1, [broken, "ERROR: No matching distribution found for torch"]).reason == "no answer for /whl/cpu"
    assert PipRun(1, ["x", "ERROR: No matching distribution", "y"]).reason == "No matching distribution"


def test_an_installed_version_is_compared_with_a_requirement() -> None:
    environment = Environment(Path(sys.prefix))
    number = environment.held("numpy")["numpy"]["version"]
    assert environment.satisfies(f"numpy=={number}") and environment.satisfies("numpy>=1,<9")
    assert not environment.satisfies("numpy==0.1") and not environment.satisfies("no-such-package")
