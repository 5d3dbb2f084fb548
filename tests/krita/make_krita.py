#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes folders with other versions of Krita from Debian's own packages, each once, for the tests to run in.

    tests/krita/make_krita.py 6.0.4            (or 5.2.9, 5.3.4, 5.1.5, newest, all)

A folder is a small Debian in which Krita is started by chroot; nothing is mounted. It needs root, debootstrap and a
Debian mirror: $MIRROR, or the one in the machine's own apt sources. Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NOTE = "krita-sd.json"
NEWEST = "6"
FRAME = "ca-certificates"
COMMON = ("fontconfig", "fonts-dejavu-core", "python3")
NO_SERVICES = "#!/bin/sh\nexit 101\n"
DPKG = """force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
"""


class MakeError(Exception):
    """The folder could not be made; the text is one sentence that says what to do."""


@dataclass(frozen=True)
class Recipe:
    """Where Debian keeps a Krita: its suite, and the suite that is laid over it for Krita alone."""

    suite: str
    packages: tuple[str, ...]
    over: str = ""

    @property
    def suites(self) -> list[str]:
        """All that packages come from."""
        return [self.suite, *([self.over] if self.over else [])]


RECIPES = {
    "5.1": Recipe("bookworm", ("krita", "python3-pyqt5")),
    "5.2": Recipe("trixie", ("krita", "python3-pyqt5")),
    "5.3": Recipe("sid", ("krita", "python3-pyqt5")),
    "6": Recipe("sid", ("krita", "python3-pyqt6", "qt6-svg-plugins"), over="experimental"),
}
"""Beginning of a Krita version -> how to get it. sid and experimental move: what came is asked, not assumed."""


@dataclass(frozen=True)
class Made:
    """A finished folder. version: what is really in it. seconds and megabytes: what making it took."""

    root: str
    version: str
    seconds: float
    megabytes: int


def recipe_of(wanted: str) -> str:
    """The key of RECIPES for a version such as "6.0.4", "6" or "newest"; raises MakeError."""
    if wanted == "newest":
        return NEWEST
    for key in RECIPES:
        if f"{wanted}.".startswith(f"{key}."):
            return key
    raise MakeError(f"Debian has no Krita {wanted}; there are {', '.join(RECIPES)}.")


def cache_folder() -> Path:
    """Where the folders are kept: $KRITA_SD_KRITAS, or krita-sd/kritas in the user's cache."""
    if "KRITA_SD_KRITAS" in os.environ:
        return Path(os.environ["KRITA_SD_KRITAS"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "krita-sd" / "kritas"


def made(key: str, cache: Path) -> Made | None:
    """The finished folder of a recipe, if there is one."""
    try:
        return Made(**json.loads((cache / key / NOTE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def make(key: str, cache: Path, say: Callable[[str], None]) -> Made:
    """Make the folder of recipe `key` in `cache`, or take the one that is there. Raises MakeError."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = made(key, cache)
        if there is not None:
            took = f"{there.megabytes} MB, made once in {there.seconds:.0f} s"
            say(f"Krita {there.version} is in {there.root} ({took})")
            return there
        _check_tools()
        recipe, started = RECIPES[key], time.monotonic()
        mirror = find_mirror(recipe.suite)
        part, final = cache / f"{key}.part", cache / key
        for left in (part, final):
            shutil.rmtree(left, ignore_errors=True)
        stale = [suite for suite in recipe.suites if is_past(index_of(mirror, suite), time.time())]
        for suite in stale:
            say(f"the mirror's index of {suite} is older than it should be; it is taken, as its signature is right")
        say(f"making Krita {key} from Debian {recipe.suites[-1]} (two minutes and more, 1.3 GB)")
        log = cache / f"{key}.log"
        with log.open("w") as out:
            _bootstrap(recipe, part, mirror, out)
            _say_step(say, key, "base", started)
            _configure(recipe, part, mirror, stale)
            _install(recipe, part, out)
        version = _version(part)
        seconds, size = time.monotonic() - started, _megabytes(part)
        part.rename(final)
        result = Made(str(final), version, round(seconds, 1), size)
        (final / NOTE).write_text(json.dumps(asdict(result), indent=1) + "\n")
        say(f"Krita {version} is made: {seconds:.0f} s, {size} MB in {final}")
        return result


def find_mirror(suite: str) -> str:
    """The first Debian mirror that has `suite`: $MIRROR, or one of the machine's apt sources. Raises MakeError."""
    named = os.environ.get("MIRROR")
    candidates = [named] if named else apt_mirrors(Path("/etc/apt"))
    reasons = []
    for mirror in candidates:
        try:
            if "Origin: Debian" in index_of(mirror, suite):
                return mirror.rstrip("/")
        except (OSError, ValueError) as error:
            reasons.append(str(getattr(error, "reason", error)))
    because = f" ({reasons[-1]})" if reasons else ""
    raise MakeError(
        f"No Debian mirror with {suite} could be reached{because}; check the network, or name one in $MIRROR."
    )


def index_of(mirror: str, suite: str) -> str:
    """The beginning of a suite's index: who made it, when, and until when it should be used. Raises OSError."""
    with urllib.request.urlopen(f"{mirror.rstrip('/')}/dists/{suite}/InRelease", timeout=30) as answer:
        return str(answer.read(2000).decode("utf-8", "replace"))


def is_past(index: str, now: float) -> bool:
    """Whether apt would refuse that index for its age at `now` (seconds since 1970)."""
    match = re.search(r"^Valid-Until: (.+)$", index, re.MULTILINE)
    return match is not None and parsedate_to_datetime(match[1].replace("UTC", "+0000")).timestamp() < now


def apt_mirrors(etc: Path) -> list[str]:
    """The http addresses in apt's sources, both notations, without those of security updates; each once."""
    found: list[str] = []
    listed = sorted(etc.glob("sources.list.d/*.list"))
    for path in [etc / "sources.list", *listed]:
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            match = re.match(r"deb\s+(?:\[[^]]*\]\s*)?(https?://\S+)\s+(\S+)", line)
            if match and "security" not in match[2]:
                found.append(match[1])
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(errors="replace")):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if "security" not in fields.get("Suites", "") and fields.get("Enabled", "yes") != "no":
                found += re.findall(r"https?://\S+", fields.get("URIs", ""))
    return list(dict.fromkeys(found))


def _check_tools() -> None:
    if os.geteuid() != 0:
        raise MakeError("Making a folder with another Krita needs root (it uses chroot); run this as root.")
    if shutil.which("debootstrap") is None or not KEYRING.exists():
        raise MakeError("debootstrap is missing; run: apt-get install debootstrap debian-archive-keyring")


def _bootstrap(recipe: Recipe, part: Path, mirror: str, out: object) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={FRAME}", f"--keyring={KEYRING}", recipe.suite]
    _do([*command, str(part), mirror], out, f"debootstrap of {recipe.suite}")


def _configure(recipe: Recipe, part: Path, mirror: str, stale: list[str]) -> None:
    """Sources, no services, no documentation, and the machine's own way to the network."""
    options = dict.fromkeys(stale, " [check-valid-until=no]")
    lines = "".join(f"deb{options.get(suite, '')} {mirror} {suite} main\n" for suite in recipe.suites)
    (part / "etc/apt/sources.list").write_text(lines)
    for leftover in (part / "etc/apt/sources.list.d").glob("*"):
        leftover.unlink()
    (part / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True, exist_ok=True)
    (part / "etc/dpkg/dpkg.cfg.d/krita-sd").write_text(DPKG)
    policy = part / "usr/sbin/policy-rc.d"
    policy.write_text(NO_SERVICES)
    policy.chmod(0o755)
    for name in ("hosts", "resolv.conf"):
        if Path("/etc", name).exists():
            (part / "etc" / name).unlink(missing_ok=True)
            shutil.copyfile(Path("/etc", name), part / "etc" / name)
    proxies = [line for line in _apt_settings() if re.match(r"Acquire::https?::Proxy", line, re.I)]
    (part / "etc/apt/apt.conf.d/80krita-sd").write_text("\n".join(proxies) + "\n")


def _install(recipe: Recipe, part: Path, out: object) -> None:
    apt = ["apt-get", "--yes", "--no-install-recommends", "-o", "APT::Sandbox::User=root"]
    _do([*apt, "update"], out, "apt-get update", part)
    newer = ["--target-release", recipe.over] if recipe.over else []
    _do([*apt, *newer, "install", recipe.packages[0]], out, "apt-get install krita", part)
    _do([*apt, "install", *recipe.packages[1:], *COMMON], out, "apt-get install", part)
    shutil.rmtree(part / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(part / "var/cache/apt", ignore_errors=True)
    (part / "w").mkdir(mode=0o755)


def _do(command: list[str], out: object, what: str, root: Path | None = None) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    inside = ["chroot", str(root)] if root else []
    done = subprocess.run(
        [*inside, *command], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
    )  # type: ignore[call-overload]
    if done.returncode:
        log = Path(out.name)  # type: ignore[attr-defined]
        errors = [line for line in log.read_text(errors="replace").splitlines() if re.match(r"[EW]: ", line)]
        raise MakeError(f"{what} failed ({errors[-1][3:] if errors else 'no reason given'}); {log} has the rest.")


def _apt_settings() -> list[str]:
    if shutil.which("apt-config") is None:
        return []
    return subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout.splitlines()


def _version(root: Path) -> str:
    command = ["chroot", str(root), "dpkg-query", "--show", "--showformat=${source:Upstream-Version}", "krita"]
    match = re.match(r"[\d.]+\d", subprocess.run(command, capture_output=True, text=True).stdout)
    if match is None:
        raise MakeError(f"{root} has no Krita in it; remove it and try again.")
    return match[0]


def _megabytes(folder: Path) -> int:
    done = subprocess.run(["du", "-sxm", str(folder)], capture_output=True, text=True)
    return int(done.stdout.split()[0])


def _say_step(say: Callable[[str], None], key: str, step: str, started: float) -> None:
    say(f"Krita {key}: {step} after {time.monotonic() - started:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", help=f"newest, all, or a version: {', '.join(RECIPES)} and what begins so")
    parser.add_argument("--folder", type=Path, help="where the folders are kept (default: the user's cache)")
    parser.add_argument("--json", action="store_true", help="say each finished folder as one JSON object")
    given = parser.parse_args()
    try:
        for key in RECIPES if given.version == "all" else [recipe_of(given.version)]:
            folder = (given.folder or cache_folder()).absolute()
            result = make(key, folder, lambda text: print(text, flush=True))
            if given.json:
                print(json.dumps(asdict(result)), flush=True)
    except (MakeError, OSError) as error:
        print(f"make_krita.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
