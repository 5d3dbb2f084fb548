# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures by content hash: inputs that clients sent and results that wait, in memory and in the state folder.

Both are bounded in bytes, least recently used first out; what a waiting job or an unacknowledged result needs is
pinned. Hashing and disk work happen in threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.values import is_hash

log = logging.getLogger(__name__)

MEMORY_BYTES = 128 * 1024**2
DISK_BYTES = 4 * 1024**3


class Blobs:
    """A content-addressed store of pictures. All methods run on the event loop's thread; `_`-less async ones wait."""

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES) -> None:
        self._folder = folder
        self._memory: OrderedDict[str, Picture] = OrderedDict()
        self._held = 0
        self._unsaved: set[str] = set()
        self._disk: OrderedDict[str, int] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes

    def load(self) -> None:
        """Learn what the folder holds, oldest first; half-written files are removed. Blocks; comes first."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if is_hash(entry.name):
                    info = entry.stat()
                    found.append((info.st_mtime, entry.name, info.st_size))
                else:
                    Path(entry.path).unlink(missing_ok=True)
        self._disk = OrderedDict((name, size) for _, name, size in sorted(found))

    def __contains__(self, digest: object) -> bool:
        return digest in self._memory or digest in self._disk

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not here; the others count as used now."""
        out = []
        for digest in digests:
            if digest in self._memory:
                self._memory.move_to_end(digest)
            if digest in self._disk:
                self._disk.move_to_end(digest)
            if digest not in self:
                out.append(digest)
        return out

    async def receive(self, claimed: str, picture: Picture) -> None:
        """Store an upload under its hash. Raises WireError(bad_request) when the bytes do not have that hash."""
        if await asyncio.to_thread(lambda: picture.hash) != claimed:
            raise WireError(Code.BAD_REQUEST, "A picture was damaged on its way.", "Generate again.", retryable=True)
        await self.store(claimed, picture)

    async def store(self, digest: str, picture: Picture) -> None:
        """Keep `picture` and write it to disk; a full disk is logged and memory keeps it."""
        if digest in self._memory:
            self._memory.move_to_end(digest)
        else:
            self._memory[digest] = picture
            self._held += len(picture.data)
        if digest in self._disk:
            return
        self._unsaved.add(digest)
        try:
            size = await asyncio.to_thread(_write, self._folder / digest, picture)
        except OSError as error:
            log.error("a picture cannot be saved: %s", error.strerror)
            return
        self._disk[digest] = size
        self._unsaved.discard(digest)
        await self._prune()

    async def get(self, digest: str) -> Picture | None:
        """The picture, from memory or disk; None when it is not here or its file is damaged."""
        if digest in self._memory:
            self._memory.move_to_end(digest)
            return self._memory[digest]
        if digest not in self._disk:
            return None
        try:
            return await asyncio.to_thread(_read, self._folder / digest)
        except (OSError, ValueError, WireError) as error:
            log.error("a saved picture cannot be read: %s", error)
            self._disk.pop(digest, None)
            return None

    def pin(self, digests: Iterable[str]) -> None:
        """Keep these until they are unpinned as often."""
        self._pins.update(digests)

    def unpin(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._pins[digest] -= 1
            if self._pins[digest] <= 0:
                del self._pins[digest]

    async def _prune(self) -> None:
        for digest in list(self._memory):
            if self._held <= self._memory_bytes:
                break
            if digest not in self._unsaved:
                self._held -= len(self._memory.pop(digest).data)
        excess = sum(self._disk.values()) - self._disk_bytes
        doomed = []
        for digest, size in self._disk.items():
            if excess <= 0:
                break
            if digest not in self._pins:
                doomed.append(digest)
                excess -= size
        for digest in doomed:
            del self._disk[digest]
            if digest in self._memory:
                self._held -= len(self._memory.pop(digest).data)
        if doomed:
            await asyncio.to_thread(_remove, [self._folder / digest for digest in doomed])


def _write(path: Path, picture: Picture) -> int:
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    head = f"{picture.format} {picture.width} {picture.height}\n".encode()
    try:
        with open(temporary, "wb") as stream:
            stream.write(head)
            stream.write(picture.data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return len(head) + len(picture.data)


def _read(path: Path) -> Picture:
    with open(path, "rb") as stream:
        format, width, height = stream.readline(64).decode("ascii").split()
        return Picture(format, int(width), int(height), stream.read())


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
