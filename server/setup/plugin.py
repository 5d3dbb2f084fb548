# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the plugin into a Krita's resource folder, takes it out again, and packs it for Krita's own importer."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from server.setup import SetupError, kritarc
from server.setup.krita_places import Place

NAME = "krita_sd"
LOCAL = "local.json"


def version(root: Path) -> str:
    """The version of a checkout, read without importing it."""
    text = (root / NAME / "wire" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^VERSION = "([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise SetupError(f"{root} has no version; is it a complete copy of the project?")
    return match[1]


def plugin_files(root: Path) -> dict[str, Path]:
    """What a resource folder receives: {relative name with slashes: source file}."""
    package = root / NAME
    files: dict[str, Path] = {}
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package)
        if not path.is_file() or "__pycache__" in relative.parts or relative.parts[0].startswith("."):
            continue
        if relative.as_posix() == LOCAL:
            continue
        if path.suffix == ".desktop":
            files[f"pykrita/{path.name}"] = path
        elif path.suffix == ".action":
            files[f"actions/{path.name}"] = path
        else:
            files[f"pykrita/{NAME}/{relative.as_posix()}"] = path
    for needed in (f"pykrita/{NAME}/__init__.py", f"pykrita/{NAME}.desktop"):
        if needed not in files:
            raise SetupError(f"The project's folder lacks {needed.partition('/')[2]}; get a complete copy of it.")
    return files


def install_plugin(root: Path, python: Path, place: Place) -> list[str]:
    """Copy, write local.json, switch on. Returns the folders and files that did not exist before.

    The plugin's folder is exchanged as a whole, so that a file of an older version never stays behind and Krita
    never sees half of it. Raises SetupError.
    """
    files = plugin_files(root)
    made: list[str] = []
    try:
        for folder in (place.resources, place.resources / "pykrita", place.resources / "actions"):
            made += _make(folder)
        pykrita = place.resources / "pykrita"
        fresh = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=pykrita))
        try:
            inside = f"pykrita/{NAME}/"
            for name, source in files.items():
                if name.startswith(inside):
                    target = fresh / name[len(inside) :]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
            local = {"python": str(python), "root": str(root), "version": version(root)}
            (fresh / LOCAL).write_text(json.dumps(local, indent=1) + "\n", encoding="utf-8")
            os.chmod(fresh, 0o755)
            _exchange(fresh, pykrita / NAME)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        for name, source in files.items():
            if not name.startswith(inside):
                _copy(source, place.resources / name)
        if place.kritarc and (place.make_kritarc or place.kritarc.is_file()):
            if not place.kritarc.exists():
                made += _make(place.kritarc.parent) + [str(place.kritarc)]
            kritarc.edit(place.kritarc, "enable")
    except OSError as error:
        raise SetupError(f"The plugin could not be written ({error}); close Krita and run this again.") from error
    return made


def remove_plugin(place: Place, made: list[str]) -> bool:
    """Undo `install_plugin`; of what it made (`made`), only what is empty goes. True when something was there."""
    pykrita = place.resources / "pykrita"
    was_there = False
    try:
        own = [pykrita / NAME, pykrita / f"{NAME}.desktop", place.resources / "actions" / f"{NAME}.action"]
        # The docker's own settings lie in a folder of their own among Krita's resources.
        for path in [*own, place.resources / NAME]:
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                continue
            was_there = True
        if place.kritarc and place.kritarc.is_file():
            was_there |= kritarc.edit(place.kritarc, "disable")
        for name in reversed(made):
            path = Path(name)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and path.stat().st_size == 0:
                path.unlink()
    except OSError as error:
        raise SetupError(f"The plugin could not be removed ({error}); close Krita and run this again.") from error
    return was_there


def pack(root: Path, archive: Path) -> None:
    """Write the zip that "Import Python Plugin from File" takes: it looks for an entry for the folder itself too."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_suffix(".new")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.mkdir(NAME) if hasattr(pack, "mkdir") else pack.writestr(zipfile.ZipInfo(f"{NAME}/"), b"")
        for name, source in plugin_files(root).items():
            pack.write(source, name.partition("/")[2])
    os.replace(temporary, archive)


def _make(folder: Path) -> list[str]:
    """Create a folder with its parents; returns those that were missing, outermost first."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return [str(path) for path in reversed(missing)]


def _exchange(fresh: Path, target: Path) -> None:
    """Put `fresh` where `target` is. A link made by a developer is replaced; what it points to is not touched."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{NAME}-old-", dir=target.parent))
        os.replace(target, old / NAME)
        os.replace(fresh, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(fresh, target)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)
