# SPDX-License-Identifier: GPL-3.0-or-later
"""Optional packages that a person asks for by name (`install.py --with`): those of an extra of pyproject.toml.

They come without what they ask for themselves. spandrel wants torchvision, which it hardly uses: that has to match
torch to the build, and would change how transformers reads pictures. What is really needed is in the extra.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from server.setup import Say, SetupError
from server.setup.environment import Environment

EXTRAS = {"upscalers": "networks for --upscaler beside ESRGAN's: SwinIR, HAT, DAT and more"}
"""Those that install.py offers, and what each is for."""

_CONDITION = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")


def requirements(metadata: Iterable[str], extra: str) -> list[str]:
    """Those of a distribution's requirements that belong to `extra`, as pip takes them."""
    found = (line.partition(";") for line in metadata)
    return [line.strip() for line, _, marker in found if extra in _CONDITION.findall(marker)]


def bring(environment: Environment, extras: Sequence[str], say: Say) -> None:
    """Install what `extras` and earlier runs asked for. Raises SetupError."""
    noted = environment.record().get("with", [])
    wanted = sorted({*extras, *(name for name in noted if name in EXTRAS)})
    metadata = environment.held("krita-sd").get("krita-sd", {}).get("requires", [])
    for extra in wanted:
        packages = requirements(metadata, extra)
        if not packages:
            raise SetupError(f"The server's packages know no {extra}; run install.py --uninstall and try again.")
        if all(environment.satisfies(package) for package in packages):
            say(f"{extra}: all of it is already here")
            continue
        run = environment.pip(["install", "--no-deps", *packages], say)
        if run.code:
            raise SetupError(
                f"pip could not install the {extra} ({run.reason}); check the connection and run it again."
            )
    if wanted != noted:
        environment.note(**{"with": wanted})
