# SPDX-License-Identifier: GPL-3.0-or-later
"""What a download consists of: the files of an offer, with size and checksum, in the revision that the hub has now."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from krita_sd.wire.errors import Code, WireError

from .hub_http import Broken, Hub, offline
from .offers import Offer

SAFE = frozenset({".safetensors", ".json", ".txt", ".model"})
"""Kinds of file that are fetched: weights that cannot run code, settings, vocabularies. Never a pickle."""

MAX_FILES = 500
_NAME = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-+]{0,150}")
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class File:
    """name: with slashes, as it will be called here. digest: "sha256:..." of the bytes, or "git:..." as git counts."""

    name: str
    source: str
    size: int
    digest: str


@dataclass(frozen=True)
class DownloadPlan:
    """Everything of one offer, of one commit."""

    repo: str
    commit: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def url(self, endpoint: str, file: File) -> str:
        """Where the hub has that file."""
        return f"{endpoint}/{quote(self.repo)}/resolve/{self.commit}/{quote(file.source)}"


def ask(offer: Offer, hub: Hub) -> DownloadPlan:
    """Ask the hub once. Raises WireError with a sentence: not reachable, not allowed, not there, not what was asked."""
    try:
        answer = hub.json(f"/api/models/{quote(offer.repo)}/revision/main?blobs=true")
    except Broken:
        raise offline() from None
    return plan_of(offer, answer)


def plan_of(offer: Offer, answer: Any) -> DownloadPlan:
    """The plan out of the hub's answer, of which nothing is trusted. Raises WireError."""
    commit = answer.get("sha") if isinstance(answer, dict) else None
    listed = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not _SHA1.fullmatch(commit) or not isinstance(listed, list):
        raise _strange("The hub's answer about this model cannot be read.")
    files = list(_without_variants(list(_files(offer, listed))))
    if not any(file.name.endswith(".safetensors") for file in files):
        raise _strange(f"The hub's {offer.repo} has no safetensors file that is wanted here.")
    missing = [name for name in offer.files if "*" not in name and all(file.source != name for file in files)]
    if missing:
        raise _strange(f"The hub's {offer.repo} has no file {missing[0]}.")
    if len(files) > MAX_FILES:
        raise _strange(f"The hub's {offer.repo} has more files than a model has.")
    return DownloadPlan(offer.repo, commit, tuple(files))


def _files(offer: Offer, listed: Iterable[Any]) -> Iterator[File]:
    for item in listed:
        source = item.get("rfilename") if isinstance(item, dict) else None
        if not isinstance(source, str) or not any(fnmatch.fnmatchcase(source, pattern) for pattern in offer.files):
            continue
        parts = PurePosixPath(source).parts
        if PurePosixPath(source).suffix.lower() not in SAFE or not all(_NAME.fullmatch(part) for part in parts):
            continue
        large = item.get("lfs")
        digest = large.get("sha256") if isinstance(large, dict) else item.get("blobId")
        pattern, scheme = (_SHA256, "sha256") if isinstance(large, dict) else (_SHA1, "git")
        size = large.get("size") if isinstance(large, dict) else item.get("size")
        if not isinstance(digest, str) or not pattern.fullmatch(digest) or not isinstance(size, int) or size < 0:
            raise _strange(f"The hub does not say the size and checksum of {parts[-1]}.")
        known = offer.checksums.get(source)
        if known is not None and digest != known:
            raise _strange(f"The hub's {parts[-1]} is not the file that is known here.")
        yield File("/".join(parts).removeprefix(offer.strip), source, size, f"{scheme}:{digest}")


def _without_variants(files: list[File]) -> Iterator[File]:
    """Folders often hold the weights twice, "model.safetensors" and "model.fp16.safetensors": one of each will do."""
    plain = {str(PurePosixPath(file.name).parent) for file in files if _is_plain(file)}
    for file in files:
        if ".fp16" not in file.name or str(PurePosixPath(file.name).parent) not in plain:
            yield file


def _is_plain(file: File) -> bool:
    return file.name.endswith(".safetensors") and ".fp16" not in file.name


def _strange(message: str) -> WireError:
    return WireError(
        Code.MODEL_UNSUPPORTED, message, "Update Krita SD, or put the files into a models folder yourself."
    )
