# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the pure-Python websockets that the plugin needs inside Krita, pinned and hash-checked.

Krita's Python has no pip and no websockets, and another plugin may have put its own copy on the path: so this one
lives at krita_sd/_vendor/websockets and is imported by that name only (its own imports are all relative).
16.x is the newest that runs on the Python 3.10 of Krita 5.2.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from server.setup import Say, SetupError
from server.setup.environment import Environment

VERSION = "16.1.1"
SHA256 = "6abbd3e82c731c8e531714466acd5d87b5e88ac3243465337ba71d68e23ae7e3"
STAMP = "WHEEL.sha256"


def bring_websockets(environment: Environment, plugin: Path, say: Say) -> None:
    """Make `plugin`/_vendor/websockets (plugin = .../krita_sd) be the pinned copy. Raises SetupError."""
    if is_there(plugin):
        say(f"websockets {VERSION} for the plugin is already here")
        return
    with tempfile.TemporaryDirectory() as folder:
        run = environment.pip(
            # Only these flags name the wheel without compiled parts, which fits every Krita on every system.
            ["download", "--no-deps", "--only-binary=:all:", "--implementation", "py", "--abi", "none"]
            + ["--platform", "any", "--python-version", "3.10", "--dest", folder, f"websockets=={VERSION}"],
            say,
        )
        wheels = list(Path(folder).glob("websockets-*.whl"))
        if run.code or len(wheels) != 1:
            raise SetupError(f"pip could not fetch websockets {VERSION} for the plugin: {run.reason}")
        unpack(wheels[0], plugin)
        say("its hash is the pinned one")


def is_there(plugin: Path) -> bool:
    """True when the pinned copy was unpacked completely: the stamp is written last."""
    try:
        return (plugin / "_vendor" / STAMP).read_text(encoding="ascii").strip() == SHA256
    except OSError:
        return False


def unpack(wheel: Path, plugin: Path, sha256: str = SHA256) -> None:
    """Check the wheel's hash and replace `plugin`/_vendor by its Python files and licence. Raises SetupError."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise SetupError(
            f"{wheel.name} is not the file that was pinned (sha256 {found}); "
            "check which package index pip is configured to use, and run this again."
        )
    target = plugin / "_vendor"
    plugin.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="._vendor-", dir=plugin))
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("websockets/") and name.endswith((".py", "py.typed")):
                    archive.extract(name, fresh)
                elif name.endswith("/LICENSE"):
                    (fresh / "websockets").mkdir(exist_ok=True)
                    (fresh / "websockets" / "LICENSE").write_bytes(archive.read(name))
        (fresh / "__init__.py").write_text('"""Other people\'s code, under this name only."""\n', encoding="ascii")
        (fresh / STAMP).write_text(sha256 + "\n", encoding="ascii")
        os.chmod(fresh, 0o755)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
