# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches one plan into a models folder: resumed after every break, checked, and put into place in one step.

    <models>/.downloads/<offer>/plan.json      which checksum each finished file has
    <models>/.downloads/<offer>/part-<hash>    one unfinished file; the hash is of its name and checksum
    <models>/.downloads/<offer>/ready/...      finished files
    <models>/<offer>/...                       all of them, moved there at the end

A scan passes over names that begin with a dot, so nobody meets half a model.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from krita_sd.wire.errors import Code, WireError

from .download_plan import DownloadPlan, File
from .header import read_header
from .hub_http import Broken, Hub, check, offline

log = logging.getLogger(__name__)

WORK = ".downloads"
RETRIES = 6
"""Failures in a row, without a new byte between them, after which a download is given up (and kept)."""

FIRST_PAUSE = 1.0
"""Seconds before the second try; doubled each time."""

RESERVE = 1024**3
"""Bytes of the disk that a download leaves free."""

_READ = 4 * 1024**2
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Download:
    """One download; `run` blocks for as long as it takes, in a thread of its own. `cancel` ends it from any thread.

    report(done, is_checking): bytes that are here of all, often.
    """

    def __init__(
        self,
        plan: DownloadPlan,
        models: Path,
        name: str,
        report: Callable[[int, bool], None],
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._plan = plan
        self._models, self._name = models, name
        self._work = work_folder(models, name)
        self._report = report
        self._first_pause = first_pause
        self._cancelled = threading.Event()
        self._finished = 0

    def cancel(self) -> None:
        """Stop soon; what has arrived is kept."""
        self._cancelled.set()

    def run(self, hub: Hub) -> Path:
        """Fetch what is missing; the folder with the model. Raises WireError: cancelled, disk_full, model_corrupt,
        or with the sentence for what the hub said."""
        try:
            self._prepare()
            for file in self._plan.files:
                self._file(hub, file)
            return self._place()
        except OSError as error:
            raise _disk_error(error) from None

    # The work folder -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Throw away what belongs to another revision, count what is here, and look whether the rest will fit."""
        ready = self._work / "ready"
        ready.mkdir(parents=True, exist_ok=True)
        finished = _read_finished(self._work)
        wanted = {file.name: file for file in self._plan.files}
        for path in [path for path in ready.rglob("*") if path.is_file()]:
            file = wanted.get(path.relative_to(ready).as_posix())
            if file is None or finished.get(file.name) != file.digest or path.stat().st_size != file.size:
                path.unlink()
        parts = {self._part(file) for file in self._plan.files}
        for path in self._work.glob("part-*"):
            if path not in parts:
                path.unlink()
        missing = self._plan.size - arrived(self._models, self._name)
        free = shutil.disk_usage(self._work).free
        if missing > 0 and free < missing + RESERVE:
            raise WireError(
                Code.DISK_FULL,
                f"{_giga(missing + RESERVE)} are needed on the disk of the models folder, and {_giga(free)} are free.",
                "Free some space and start again; what has arrived is kept.",
            )

    def _part(self, file: File) -> Path:
        key = hashlib.blake2b(f"{file.name}\0{file.digest}".encode(), digest_size=12).hexdigest()
        return self._work / f"part-{key}"

    def _place(self) -> Path:
        """Move the finished folder to where models are looked for."""
        target = self._models / self._name
        for file in self._plan.files:
            if file.name.endswith(".safetensors"):
                read_header(self._work / "ready" / file.name)
        if target.exists():
            raise WireError(
                Code.BAD_REQUEST,
                f"There is already a folder {self._name} in the models folder.",
                "Rename or remove it, then start again; nothing needs to be fetched anew.",
            )
        os.replace(self._work / "ready", target)
        shutil.rmtree(self._work, ignore_errors=True)
        return target

    # One file --------------------------------------------------------------------------------------------------------

    def _file(self, hub: Hub, file: File) -> None:
        done = self._work / "ready" / file.name
        if not done.is_file():
            self._fetch(hub, file)
            done.parent.mkdir(parents=True, exist_ok=True)
            _note_finished(self._work, file)
            os.replace(self._part(file), done)
        self._finished += file.size
        self._report(self._finished, False)

    def _fetch(self, hub: Hub, file: File) -> None:
        """The whole file into its part, with the right checksum."""
        part = self._part(file)
        damaged = failures = best = 0
        while True:
            if not file.size:
                part.touch()
            try:
                if _size(part) < file.size:
                    self._stream(hub, file, part)
            except Broken as broken:
                log.info("download of %s broke at %d of %d: %s", file.name, _size(part), file.size, broken)
                failures = 0 if _size(part) > best else failures + 1
                best = max(best, _size(part))
                if failures >= RETRIES:
                    raise offline() from None
                self._pause(max(broken.wait, self._first_pause * 2.0 ** max(0, failures - 1)))
                continue
            if _size(part) == file.size and self._digest(part, file) == file.digest:
                return
            part.unlink()
            damaged, failures, best = damaged + 1, 0, 0
            if damaged == 2:
                raise WireError(
                    Code.MODEL_CORRUPT,
                    f"{file.name} arrived damaged twice and was thrown away.",
                    "Try again later, or in another network.",
                    retryable=True,
                )

    def _stream(self, hub: Hub, file: File, part: Path) -> None:
        have = _size(part)
        headers = {"Range": f"bytes={have}-"} if have else {}
        with hub.get(self._plan.url(hub.endpoint, file), headers) as response:
            if response.status_code == 416:
                part.unlink(missing_ok=True)
                raise Broken("the hub does not have that part of the file")
            check(response.status_code)
            if response.status_code != 206 or not _starts_at(response.headers.get("Content-Range", ""), have):
                if response.status_code == 206:
                    part.unlink(missing_ok=True)
                    raise Broken("the hub sent another part of the file")
                have = 0  # it does not resume: from the beginning
            with open(part, "r+b" if have else "wb") as stream:
                stream.seek(have)
                for chunk in hub.chunks(response, file.size - have):
                    stream.write(chunk)
                    have += len(chunk)
                    self._report(self._finished + have, False)
                    self._stop_if_cancelled()
        if have < file.size:
            raise Broken("the connection ended early")

    def _digest(self, part: Path, file: File) -> str:
        scheme = file.digest.partition(":")[0]
        state = hashlib.sha256() if scheme == "sha256" else hashlib.sha1(b"blob %d\0" % file.size)
        with open(part, "rb") as stream:
            while block := stream.read(_READ):
                state.update(block)
                self._report(self._finished + file.size, True)
                self._stop_if_cancelled()
        return f"{scheme}:{state.hexdigest()}"

    def _pause(self, seconds: float) -> None:
        self._cancelled.wait(min(60.0, seconds))
        self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise WireError(Code.CANCELLED, "The download was stopped; what has arrived is kept.")


def work_folder(models: Path, name: str) -> Path:
    """Where the unfinished download `name` lies."""
    return models / WORK / name


def arrived(models: Path, name: str) -> int:
    """Bytes of the unfinished download `name`; 0 when there is none."""
    try:
        return sum(_size(path) for path in work_folder(models, name).rglob("*") if path.name != "plan.json")
    except OSError:
        return 0


def discard(models: Path, name: str) -> None:
    """Throw away what has arrived of the unfinished download `name`."""
    shutil.rmtree(work_folder(models, name), ignore_errors=True)


def free_space(models: Path) -> int:
    """Bytes free on the disk of the models folder, which need not exist yet; 0 when that is not known."""
    for folder in (models, *models.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return 0


def _read_finished(work: Path) -> dict[str, str]:
    try:
        data = json.loads((work / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _note_finished(work: Path, file: File) -> None:
    """Before the file is moved: a note about a file that is not there yet does no harm."""
    draft = work / "plan.json.tmp"
    draft.write_text(json.dumps({**_read_finished(work), file.name: file.digest}, indent=1), encoding="utf-8")
    draft.replace(work / "plan.json")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _starts_at(text: str, have: int) -> bool:
    match = _RANGE.fullmatch(text.strip())
    return match is not None and int(match[1]) == have


def _giga(size: int) -> str:
    return f"{size / 10**9:.1f} GB"


def _disk_error(error: OSError) -> WireError:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return WireError(
            Code.DISK_FULL,
            "The disk of the models folder is full.",
            "Free some space and start again; what has arrived is kept.",
        )
    return WireError(
        Code.BAD_REQUEST,
        f"The models folder cannot be written ({error.strerror or type(error).__name__}).",
        "Change its permissions, or start the server with another --models.",
    )
