# SPDX-License-Identifier: GPL-3.0-or-later
"""Which build of torch this machine gets, and from where: the user's own pip sources first, PyTorch's index second."""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from server.setup import Say, SetupError
from server.setup.environment import Environment

# Asked for first, whatever the kind. pyproject.toml has the range that the code is written for.
PINNED = "2.13.0"
RANGE = ((2, 8), (3, 0))

# The public wheel indexes of PyTorch by kind: each has builds whose version ends in +TAG. Tried in this order.
INDEX = "https://download.pytorch.org/whl/"
TAGS: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu",),
    "cuda": ("cu130", "cu126"),
    "rocm": ("rocm7.2", "rocm7.1"),
    "xpu": ("xpu",),
    "mps": (),  # the ordinary macOS build is the one
}
KINDS = tuple(TAGS)
# Somebody whose network drops packets should learn that in half a minute, not in ten.
SHORT = ("--timeout", "15", "--retries", "1")

NAMES = {"cpu": "CPU", "cuda": "NVIDIA (CUDA)", "rocm": "AMD (ROCm)", "xpu": "Intel (XPU)", "mps": "Apple (MPS)"}


@dataclass(frozen=True)
class Machine:
    """What decides the kind. `system` and `processor` as `platform.system()` and `platform.machine()` say."""

    system: str
    processor: str
    nvidia: bool = False
    amd: bool = False
    intel: bool = False


@dataclass(frozen=True)
class Build:
    """A torch that is installed or could be: its version with the local tag, and its kind."""

    version: str
    kind: str


@dataclass(frozen=True)
class Plan:
    """What to tell pip: `requirement`, with `index` as an extra source when it is not None."""

    requirement: str
    index: str | None = None


def this_machine() -> Machine:
    """Look at drivers, not at marketing names: a card without its driver counts as none."""
    system = platform.system()
    return Machine(
        system=system,
        processor=platform.machine(),
        nvidia=Path("/proc/driver/nvidia/version").exists() or _answers("nvidia-smi", "-L"),
        amd=system == "Linux" and (Path("/dev/kfd").exists() or _answers("rocminfo")),
        intel=_intel_gpu(system),
    )


def best_kind(machine: Machine) -> str:
    """The kind that `--torch auto` stands for."""
    if machine.system == "Darwin":
        return "mps" if machine.processor == "arm64" else "cpu"
    if machine.nvidia:
        return "cuda"
    if machine.amd:
        return "rocm"
    return "xpu" if machine.intel else "cpu"


def kind_of(version: str, requires: list[str], machine: Machine) -> str:
    """The kind of a torch wheel, from its local version tag or, where it has none, from what it would bring along."""
    tag = version.partition("+")[2]
    for prefix, kind in (("cpu", "cpu"), ("cu", "cuda"), ("rocm", "rocm"), ("xpu", "xpu")):
        if tag.startswith(prefix):
            return kind
    if machine.system == "Darwin":
        return "mps"
    names = [requirement for requirement in requires if _applies(requirement, machine)]
    for pattern, kind in (
        (r"(nvidia|cuda)-", "cuda"),
        (r"(pytorch-)?triton-rocm|rocm", "rocm"),
        (r"(pytorch-)?triton-xpu|intel-", "xpu"),
        (r"triton\b", "cuda"),
    ):
        if any(re.match(pattern, name) for name in names):
            return kind
    return "cpu"


def fits(kind: str, wanted: str, machine: Machine) -> bool:
    """On macOS one build serves both the CPU and the GPU; elsewhere kinds are exclusive."""
    return kind == wanted or (machine.system == "Darwin" and {kind, wanted} <= {"cpu", "mps"})


def in_range(version: str) -> bool:
    """Whether pyproject.toml's torch range admits this version."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return bool(numbers) and RANGE[0] <= (int(numbers[1]), int(numbers[2])) < RANGE[1]  # type: ignore[index]


def is_requirement(text: str) -> bool:
    """True for `torch==2.13.0`, `torch>=2.9,<3`, `torch @ URL` or the path of a wheel."""
    return bool(re.match(r"torch\s*([<>=!~@]|$)", text)) or text.endswith(".whl")


def choose(environment: Environment, wanted: str, machine: Machine, say: Say) -> Plan | None:
    """Decide for `wanted` ("auto", a kind, or a requirement). None: the torch already there is right.

    Raises SetupError when no build of the wanted kind can be had.
    """
    if wanted not in ("auto", *KINDS):
        if environment.satisfies(wanted):
            say(f"a torch that fulfils {wanted} is already here")
            return None
        return Plan(wanted)
    kind = best_kind(machine) if wanted == "auto" else wanted
    present = installed(environment, machine)
    if present and in_range(present.version) and (wanted == "auto" or fits(present.kind, kind, machine)):
        say(f"torch {present.version} ({NAMES[present.kind]}) is already here and is kept")
        return None
    if wanted == "auto":
        say(f"this machine wants torch's {NAMES[kind]} build")
    found, reason = ask(environment, f"torch=={PINNED}", machine, say)
    if found and fits(found.kind, kind, machine):
        return Plan(f"torch=={found.version}")
    if found:
        say(f"pip's own sources offer torch {found.version} for {NAMES[found.kind]}, not for {NAMES[kind]}")
    else:
        say(f"pip's own sources have no torch {PINNED} ({reason})")
    for tag in TAGS[kind]:
        say(f"so PyTorch's public index is asked too: {INDEX}{tag}")
        offered, reason = ask(environment, f"torch=={PINNED}+{tag}", machine, say, INDEX + tag)
        if offered and fits(offered.kind, kind, machine):
            return Plan(f"torch=={offered.version}", INDEX + tag)
    if wanted == "auto" and found and found.kind == "cpu":
        say(f"PyTorch's index did not answer, so the CPU build is taken; later: install.py --torch {kind}")
        return Plan(f"torch=={found.version}")
    other = (
        f"take the one that is offered with --torch torch=={found.version}" if found else "name another with --torch"
    )
    raise SetupError(
        f"No {NAMES[kind]} build of torch {PINNED} for Python {platform.python_version()} could be found ({reason}); "
        f"check the internet connection, or {other}."
    )


def install(environment: Environment, plan: Plan, say: Say) -> None:
    """Carry out a plan; an already installed torch of another build is replaced. Raises SetupError."""
    source = ["--extra-index-url", plan.index, *SHORT] if plan.index else []
    if environment.held("torch"):
        # pip takes 2.13.0+cpu for a fulfilled torch==2.13.0, so the exchange has to be said.
        run = environment.pip(["install", "--force-reinstall", "--no-deps", *source, plan.requirement], say)
    else:
        run = environment.pip(["install", *source, plan.requirement], say)
    if run.code:
        raise SetupError(f"pip could not install {plan.requirement}: {run.reason}")


def installed(environment: Environment, machine: Machine) -> Build | None:
    """The torch in the environment, if any."""
    held = environment.held("torch").get("torch")
    return Build(held["version"], kind_of(held["version"], held["requires"], machine)) if held else None


def ask(
    environment: Environment, requirement: str, machine: Machine, say: Say, index: str | None = None
) -> tuple[Build | None, str]:
    """What pip would install for `requirement`, without installing it: (build, "") or (None, reason)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        arguments = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--report", str(report), requirement]
        if index:
            arguments += ["--extra-index-url", index, *SHORT]
        run = environment.pip(arguments, say)
        if run.code:
            return None, run.reason
        return build_of(json.loads(report.read_text(encoding="utf-8")), machine), ""


def build_of(report: dict, machine: Machine) -> Build:
    """Read a pip installation report about torch."""
    metadata = report["install"][0]["metadata"]
    return Build(metadata["version"], kind_of(metadata["version"], metadata.get("requires_dist", []), machine))


def _applies(requirement: str, machine: Machine) -> bool:
    """The part of environment markers that torch's wheels use to tell systems apart."""
    marker = requirement.partition(";")[2]
    if "extra ==" in marker:
        return False
    for key, value in (("platform_system", machine.system), ("platform_machine", machine.processor)):
        wanted = re.findall(rf"{key}\s*==\s*[\"']([^\"']+)[\"']", marker)
        if wanted and value not in wanted:
            return False
    return True


def _answers(*command: str) -> bool:
    """True when a driver's own tool exists and reports at least one device."""
    program = shutil.which(command[0])
    if program is None:
        return False
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def _intel_gpu(system: str) -> bool:
    """An Intel display device together with the Level Zero loader that torch's XPU build talks to."""
    if system == "Windows":
        return (Path(os.environ.get("SystemRoot", "C:\\Windows")) / "System32" / "ze_loader.dll").exists()
    if system != "Linux" or ctypes.util.find_library("ze_loader") is None:
        return False
    for vendor in Path("/sys/class/drm").glob("card*/device/vendor"):
        try:
            if vendor.read_text().strip() == "0x8086":
                return True
        except OSError:
            continue
    return False
