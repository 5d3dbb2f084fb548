# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the server of this machine, or starts it. Qt-free; called in the link thread only, because it waits.

A running server is found by `server.json` in its state folder. A new one is started with the interpreter and place
that install.py wrote into `local.json` beside this file, with an environment cleaned of what packaged Kritas set for
themselves: their PYTHONHOME or LD_LIBRARY_PATH would break every other Python.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd import tls
from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.places import state_dir

log = logging.getLogger(__name__)

START_TIMEOUT = 60.0
"""Seconds until a started server must listen. It needs under one; a cold disk may need more."""

LOCAL_JSON = Path(__file__).with_name("local.json")
FLATPAK_INFO = Path("/.flatpak-info")


@dataclass(frozen=True)
class Running:
    """A server that is alive: its websocket address, token, process id and instance."""

    uri: str
    token: str
    pid: int
    instance: str


def find(state: Path) -> Running | None:
    """The live server of that state folder, or None."""
    try:
        data = json.loads((state / "server.json").read_text(encoding="utf-8"))
        pid, port = int(data["pid"]), int(data["port"])
        token = (state / "token").read_text(encoding="utf-8").strip()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not alive(pid) or not 0 < port < 65536:
        return None
    host = str(data.get("host") or "127.0.0.1")
    if host in ("0.0.0.0", "::", "*"):
        host = "127.0.0.1"  # it listens everywhere; from here the loopback is the way
    host = f"[{host}]" if ":" in host else host
    mark = str(data.get("fingerprint") or "")
    uri = f"wss://{host}:{port}/v1#{tls.MARK}{mark}" if mark else f"ws://{host}:{port}/v1"
    return Running(uri, token, pid, str(data.get("instance", "")))


def alive(pid: int) -> bool:
    """Whether a process with that id runs."""
    if pid <= 0:
        return False
    if sys.platform == "win32":
        return _alive_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it belongs to somebody else, but it is there
    try:
        # A zombie still has an id, but no port.
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return state[0] != "Z"
    except (OSError, IndexError):
        return True


def _alive_windows(pid: int) -> bool:
    import ctypes

    kernel: Any = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return False
    code = ctypes.c_ulong()
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return bool(known) and code.value == 259  # STILL_ACTIVE


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a server: without what the package of Krita set for its own libraries and Python."""
    appdir = environ.get("APPDIR", "")
    drop = {"LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "DYLD_FRAMEWORK_PATH"}
    drop |= {"APPDIR", "APPIMAGE", "ARGV0", "OWD", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV", "GIO_MODULE_DIR"}
    drop |= {"SSL_CERT_FILE", "SSL_CERT_DIR"} if appdir else set()
    out = {}
    for key, value in environ.items():
        if key in drop or key.startswith(("PYTHON", "QT_", "QML", "GST_", "GTK_")):
            continue
        if appdir and os.pathsep in value:
            value = os.pathsep.join(part for part in value.split(os.pathsep) if not part.startswith(appdir))
        out[key] = value
    return out


def read_local(path: Path = LOCAL_JSON) -> tuple[Path, Path]:
    """(interpreter, root of the installation). Raises WireError with a sentence when install.py has not run."""
    hint = tr("Run 'python3 install.py' in the Krita SD folder, then restart Krita.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        python, root = Path(data["python"]), Path(data["root"])
    except (OSError, ValueError, KeyError, TypeError):
        raise WireError(Code.INTERNAL, tr("The server is not installed on this machine."), hint) from None
    if not python.exists() or not (root / "server").is_dir():
        raise WireError(Code.INTERNAL, tr("The server is no longer at {root}.", root=root), hint)
    return python, root


def start_or_find(
    report: Callable[[str], None],
    stopping: threading.Event,
    *,
    state: Path | None = None,
    local: Path = LOCAL_JSON,
    timeout: float = START_TIMEOUT,
    options: Sequence[str] = (),
) -> Running:
    """The running server, or a new one with these command line options. `report` is told what is being waited for.
    Raises WireError."""
    folder = state or state_dir()
    running = find(folder)
    if running is not None:
        return running
    if FLATPAK_INFO.exists():
        raise WireError(
            Code.UNSUPPORTED,
            tr("Krita runs in a Flatpak, which may not start other programs."),
            tr(
                "Start the server in a terminal: python -m server (in the Krita SD folder); it is then found by itself."
            ),
        )
    python, root = read_local(local)
    report(tr("Starting the server ..."))
    process, log_file = _spawn(python, root, folder, options)
    end = time.monotonic() + timeout
    while time.monotonic() < end and not stopping.is_set():
        running = find(folder)
        if running is not None:
            return running
        if process.poll() is not None:
            # Another one may have been quicker, or the launcher has handed over: look once more.
            running = find(folder)
            if running is not None:
                return running
            raise WireError(
                Code.INTERNAL,
                tr("The server did not start: {last_line}", last_line=_last_line(log_file)),
                f"Log: {log_file}",
            )
        stopping.wait(0.05)
    process.terminate()
    raise WireError(Code.INTERNAL, tr("The server did not start in time."), f"Log: {log_file}", retryable=True)


def _spawn(python: Path, root: Path, folder: Path, more: Sequence[str] = ()) -> tuple[subprocess.Popen[bytes], Path]:
    log_file = folder / "start.log"
    command = [str(python), "-m", "server", "--owner", str(os.getpid()), "--port", "0", "--state", str(folder), *more]
    options: dict[str, Any] = {}
    if sys.platform == "win32":
        options["creationflags"] = 0x08000000 | 0x00000200  # no console window, own process group
    else:
        options["start_new_session"] = True  # Ctrl+C in the terminal of Krita is not meant for the server
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
        with open(log_file, "wb") as output:
            process = subprocess.Popen(
                command,
                cwd=root,
                env=clean_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                **options,
            )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WireError(
            Code.INTERNAL,
            tr("The server could not be started ({reason}).", reason=reason),
            tr("Tried {python}.", python=python),
        ) from None
    return process, log_file


def _last_line(path: Path) -> str:
    """The last line of what the program said: its one sentence."""
    try:
        text = path.read_bytes()[-4000:].decode("utf-8", "replace")
    except OSError:
        return tr("it said nothing")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else tr("it said nothing")
