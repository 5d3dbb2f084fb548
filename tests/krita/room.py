# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the Krita under test is: the installed one, or one in a folder of make_krita.py, entered by chroot.

$KRITA_SD_KRITA names the folder. Inside of it a link makes every path below the folder valid under the name it has
outside, so that tests and Krita speak of the same files with the same words. What Krita starts as the server's
interpreter is there a small program that asks `Starter`, outside, to start the real server.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTER = "KRITA_SD_TEST_STARTER"
MARK = "# asks the tests to start the server outside"
RELAY = f"""#!/usr/bin/python3
{MARK}
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["{STARTER}"])
request = json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ)}}).encode() + b"\\n"
socket.send_fds(s, [request[:1]], [2])
s.sendall(request[1:])
sys.exit(int(s.makefile().readline() or 1))
"""


@dataclass(frozen=True)
class Room:
    """root: the folder that Krita is shut into; None for the installed Krita, which sees the whole machine."""

    root: Path | None = None

    @staticmethod
    def chosen() -> Room:
        """The one that the environment names."""
        named = os.environ.get("KRITA_SD_KRITA")
        return Room(Path(named).resolve()) if named else Room()

    @property
    def binary(self) -> Path:
        """Krita's program as seen from outside."""
        return self.root / "usr/bin/krita" if self.root else Path(shutil.which("krita") or "krita").resolve()

    @property
    def files(self) -> Path:
        """A folder whose files have the same names for the tests and for Krita."""
        return self.root / "w" if self.root else Path(tempfile.gettempdir())

    @property
    def version(self) -> str:
        """Krita's version as Debian's package says, such as "6.0.4.1"; empty when it is from elsewhere."""
        enter = ["chroot", str(self.root)] if self.root else []
        command = [*enter, "dpkg-query", "--show", "--showformat=${source:Upstream-Version}", "krita"]
        try:
            return subprocess.run(command, capture_output=True, text=True).stdout.partition("+")[0]
        except OSError:
            return ""

    def key(self) -> str:
        """Changes whenever Krita does."""
        stat = self.binary.stat()
        text = f"{self.binary}:{stat.st_size}:{stat.st_mtime_ns}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def prepare(self) -> None:
        """Make paths of outside valid inside: of everything below the folder, the project and its interpreter."""
        if self.root is None:
            return
        self.files.mkdir(exist_ok=True)
        mirror = self._inside(self.root)
        if not mirror.is_symlink():
            mirror.parent.mkdir(parents=True, exist_ok=True)
            mirror.symlink_to("/")
        (self._inside(ROOT) / "server").mkdir(parents=True, exist_ok=True)
        relay = self._inside(Path(sys.executable))
        if os.path.lexists(relay) and MARK not in relay.read_text(errors="replace"):
            raise RuntimeError(f"the tests of a Krita in a folder need an interpreter of their own, not {relay}")
        relay.parent.mkdir(parents=True, exist_ok=True)
        relay.write_text(RELAY)
        relay.chmod(0o755)

    def _inside(self, path: Path) -> Path:
        """Where something has to lie to be seen inside as `path`."""
        assert self.root is not None
        return self.root / path.relative_to("/")

    def spawn(self, args: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program of the room; it ends with us."""
        return spawn(args, env, log, enter=self.enter)

    def enter(self) -> None:
        """In a child, before exec."""
        if self.root is not None:
            os.chroot(self.root)
            os.chdir("/")


def spawn(
    args: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    pass_fds: tuple[int, ...] = (),
    enter: Callable[[], None] = lambda: None,
) -> subprocess.Popen[bytes]:
    """Start a program that ends with us, and never with a signal meant for us."""
    libc = ctypes.CDLL("libc.so.6", use_errno=True)

    def before_exec() -> None:
        libc.prctl(1, signal.SIGKILL)
        enter()

    with log.open("ab") as out:
        return subprocess.Popen(
            list(args),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=before_exec,
            pass_fds=pass_fds,
        )


def stop(process: subprocess.Popen[bytes] | None, sig: int = signal.SIGTERM, timeout: float = 5.0) -> None:
    """End a program: asked first, then killed."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(sig)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Starter:
    """Starts, outside, the servers that a Krita in a folder wants to start, and tells it how they ended."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Start nothing any more. Servers end by themselves, with their Krita."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            data, errors, _, _ = socket.recv_fds(near, 1, 1)
            while not data.endswith(b"\n"):
                got = near.recv(65536)
                if not got:
                    return
                data += got
            request = json.loads(data)
            try:
                process = subprocess.Popen(
                    [sys.executable, *request["argv"]],
                    cwd=ROOT,
                    env=request["env"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors[0],
                    start_new_session=True,
                )
            finally:
                os.close(errors[0])
            # Waited for here, so that a killed server is gone and no zombie.
            code = process.wait()
            try:
                near.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
            except OSError:
                pass  # its Krita has quit
