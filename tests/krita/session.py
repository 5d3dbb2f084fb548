# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts a real Krita under its own X server with clean folders, talks to it, and takes everything down again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.setup import plugin, vendor
from server.setup.krita_places import Place
from tests.krita.room import ROOT, STARTER, Room, Starter, spawn, stop

CONTROL = Path(__file__).resolve().parent / "control"
OUTPUT = ROOT / "tests" / "output"
PROGRAMS = ("krita", "Xvfb", "openbox", "xdotool", "import")
START_TIMEOUT = 240.0  # seconds; a first start with an empty data folder takes 13 to 50, more on a busy machine
CALL_TIMEOUT = 60.0  # seconds; most answers take a millisecond, but the machine may have other work
SCREEN = "1440x1080x24"
CANVAS = os.environ.get("KRITA_SD_CANVAS", "raster")
"""raster, or gl: what Krita takes by itself on a machine with OpenGL, here Mesa's on the CPU."""

# Qt Quick must not want the OpenGL that it is denied: Krita 6.0 paints its whole window black then.
WITHOUT_GL = {"QT_XCB_GL_INTEGRATION": "none", "QT_QUICK_BACKEND": "software"}

KRITARC = """CreateBackupFile=false
AutoSaveInterval=0
sessionOnStartup=0
saveSessionOnQuit=false
firstRun=false

[python]
enable_krita_test_control=true
enable_krita_sd=true
{disabled}
[theme]
Theme=Krita dark
"""
BUNDLED = (
    "colorspace comics_project_management_tools documenttools exportlayers filtermanager lastdocumentsdocker "
    "plugin_importer quick_settings_docker scripter tenbrushes tenscripts"
)


NOISE = ("QXcbIntegration:", "WARNING: Level of Detail", "QPainter::", "Timers cannot have negative")
"""Beginnings of lines that every Krita without GL writes."""


class Failure(AssertionError):
    """Krita did not do what the test waited for; the text says what was seen."""


def need_programs() -> None:
    """Skip where Krita is not installed; fail where the suite was promised one (`install.py --test`, CI)."""
    room = Room.chosen()
    wanted = [name for name in PROGRAMS if name != "krita" or room.root is None]
    missing = ", ".join(name for name in wanted if shutil.which(name) is None)
    if room.root is not None and not room.binary.exists():
        pytest.fail(f"there is no Krita in {room.root}; make_krita.py makes one")
    if not vendor.is_there(ROOT / "krita_sd"):
        pytest.fail("krita_sd/_vendor is missing, so the plugin cannot connect; python3 install.py --zip brings it")
    if missing and os.environ.get("KRITA_SD_REQUIRE_KRITA"):
        pytest.fail(f"not installed: {missing}")
    if missing:
        pytest.skip(f"not installed: {missing}")


class Session:
    """One Krita with its X server and window manager. Use as a context manager.

    install: called with the folder that contains `pykrita/` before Krita starts; installs the plugin under test.
    env: additional variables for Krita (and so for the server it starts). A path in them is one that Krita can see:
    below `files`, or anywhere when the room is the whole machine.
    """

    def __init__(self, install: Callable[[Path], None] | None = None, env: dict[str, str] | None = None) -> None:
        self.room = Room.chosen()
        self.room.prepare()
        # Short: a socket path has 107 characters.
        self.work = Path(tempfile.mkdtemp(prefix="ksd-", dir=self.room.files))
        self.starter: Starter | None = None
        self._install = install
        self._extra = env or {}
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._next = 0
        self.xvfb: subprocess.Popen[bytes] | None = None
        self.openbox: subprocess.Popen[bytes] | None = None
        self.krita: subprocess.Popen[bytes] | None = None
        self.env: dict[str, str] = {}

    # --- life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        try:
            self._folders()
            self._start_x()
            self._start_krita()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def resources(self) -> Path:
        """Krita's resource folder: it contains `pykrita/`."""
        return self.work / "data" / "krita"

    @property
    def state(self) -> Path:
        """XDG_STATE_HOME of this session, where the plugin's server keeps its state."""
        return self.work / "state"

    def _folders(self, template: bool = True) -> None:
        for name in ("home", "config", "cache", "run", "tmp", "state"):
            (self.work / name).mkdir(mode=0o700)
        if self._install is not None:
            data = _template()
            subprocess.run(["cp", "-a", "--reflink=auto", str(data), str(self.work / "data")], check=True)
        pykrita = self.resources / "pykrita"
        pykrita.mkdir(parents=True, exist_ok=True)
        shutil.copytree(CONTROL, pykrita, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        if self._install is not None:
            self._install(self.resources)
        off = "".join(f"enable_{name}=false\n" for name in BUNDLED.split())
        (self.work / "config" / "kritarc").write_text(KRITARC.format(disabled=off))
        if CANVAS != "gl":
            (self.work / "config" / "kritadisplayrc").write_text("[General]\nOpenGLRenderer=none\n")

    def _start_x(self) -> None:
        read, write = os.pipe()
        base = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.work / "home")}
        args = ["Xvfb", "-displayfd", str(write), "-screen", "0", SCREEN, "-nolisten", "tcp", "-noreset"]
        self.xvfb = spawn(args, base, self.work / "xvfb.log", (write,))
        os.close(write)
        number = b""
        while not number.endswith(b"\n"):  # number and newline come in two writes
            got = os.read(read, 16)
            if not got:
                raise Failure("Xvfb did not start: " + (self.work / "xvfb.log").read_text())
            number += got
        os.close(read)
        self.env = {
            **base,
            "DISPLAY": ":" + number.decode().strip(),
            "XDG_CONFIG_HOME": str(self.work / "config"),
            "XDG_DATA_HOME": str(self.work / "data"),
            "XDG_CACHE_HOME": str(self.work / "cache"),
            "XDG_STATE_HOME": str(self.state),
            "XDG_RUNTIME_DIR": str(self.work / "run"),
            "TMPDIR": str(self.work / "tmp"),
            **({} if CANVAS == "gl" else WITHOUT_GL),
            "NO_AT_BRIDGE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
            "KRITA_TEST_SOCKET": str(self.work / "run" / "test.sock"),
            STARTER: str(self.work / "run" / "start.sock"),
            **self._extra,
        }
        if self.room.root is not None:
            self.starter = Starter(Path(self.env[STARTER]))
        self.openbox = spawn(["openbox", "--sm-disable"], self.env, self.work / "openbox.log")

    def _start_krita(self) -> None:
        self.krita = self.room.spawn(["krita", "--nosplash"], self.env, self.work / "krita.log")
        path = self.env["KRITA_TEST_SOCKET"]
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self.krita.poll() is not None:
                raise Failure(f"Krita ended with {self.krita.returncode}:\n{self.log_tail()}")
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(path)
                self._socket = sock
                break
            except OSError:
                sock.close()
                if time.monotonic() > deadline:
                    raise Failure(f"Krita did not start:\n{self.log_tail()}") from None
                time.sleep(0.05)
        ready = "K.activeWindow() is not None and K.activeWindow().qwindow().isVisible()"
        self.wait(ready, max(5.0, deadline - time.monotonic()))
        self.run("K.activeWindow().qwindow().showMaximized()")
        self.wait("K.activeWindow().qwindow().isMaximized() and K.activeWindow().qwindow().width() > 1200")

    def restart(self) -> None:
        """Kill Krita, as a crash does, and start it again in the same folders."""
        assert self.krita is not None and self._socket is not None
        stop(self.krita, signal.SIGKILL)
        self._socket.close()
        self._socket, self._buffer = None, b""
        self._start_krita()

    def close(self) -> None:
        """Quit Krita as a user would, kill it if it hangs, then the window manager, X and the folders."""
        if self._socket is None:
            stop(self.krita)
        if self.krita is not None and self.krita.poll() is None:
            try:
                self.run("[d.setModified(False) for d in all_documents()]", 20)
                self.run("K.action('file_quit').trigger()", 20)
                self.krita.wait(15)
            except (Failure, OSError, subprocess.TimeoutExpired):
                self.krita.kill()
                self.krita.wait()
        if self._socket is not None:
            self._socket.close()
        stop(self.openbox)
        stop(self.xvfb)
        if self.starter is not None:
            self.starter.close()
        shutil.rmtree(self.work, ignore_errors=True)

    # --- conversation -------------------------------------------------------------------------------------------

    def _call(self, code: str, mode: str, timeout: float = CALL_TIMEOUT) -> Any:
        assert self._socket is not None
        self._next += 1
        request = json.dumps({"id": self._next, "code": code, "mode": mode})
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(request.encode() + b"\n")
            while True:
                while b"\n" not in self._buffer:
                    got = self._socket.recv(1 << 20)
                    if not got:
                        raise Failure(f"Krita closed the connection:\n{self.log_tail()}")
                    self._buffer += got
                line, self._buffer = self._buffer.split(b"\n", 1)
                reply = json.loads(line)
                if reply["id"] == self._next:  # answers to calls that timed out are dropped
                    break
        except ConnectionError:
            assert self.krita is not None
            try:
                code_left: object = self.krita.wait(5)
            except subprocess.TimeoutExpired:
                code_left = "nothing, it still runs"
            raise Failure(f"{code!r}: Krita ended with {code_left}\n{self.log_tail()}") from None
        except TimeoutError:
            raise Failure(f"no answer within {timeout:.0f} s to {code!r}\n{self.stack()}") from None
        if not reply["ok"]:
            raise Failure(f"{code}\n{reply['error']}")
        return reply["result"]

    def eval(self, code: str, timeout: float = CALL_TIMEOUT) -> Any:
        """Value of an expression inside Krita (JSON types)."""
        return self._call(code, "eval", timeout)

    def run(self, code: str, timeout: float = CALL_TIMEOUT) -> None:
        """Run statements inside Krita."""
        self._call(code, "exec", timeout)

    def wait(self, condition: str, timeout: float = CALL_TIMEOUT, what: str = "") -> Any:
        """Poll every 30 ms until the expression is true; its value.

        Less often where the answer takes longer than that: the asking must not keep Krita from what is waited for.
        """
        deadline = time.monotonic() + timeout
        while True:
            asked = time.monotonic()
            value = self.eval(condition, max(CALL_TIMEOUT, timeout))
            if value:
                return value
            if time.monotonic() > deadline:
                raise Failure(f"waited {timeout:.0f} s for {what or condition}")
            time.sleep(max(0.03, time.monotonic() - asked))

    def open_file(self, path: Path) -> None:
        """Open a file as a double click in a file manager would: a second Krita hands it over to the first."""
        command, enter = ["krita", "--nosplash", str(path)], self.room.enter
        subprocess.run(command, env=self.env, check=True, timeout=60, capture_output=True, preexec_fn=enter)
        self.wait(f"K.activeDocument() is not None and K.activeDocument().fileName() == {str(path)!r} and idle()", 30)

    # --- evidence -----------------------------------------------------------------------------------------------

    def stack(self) -> str:
        """The Python stacks of a Krita that hangs, from its log."""
        if self.krita is not None and self.krita.poll() is None:
            self.krita.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
        return self.log_tail()

    def log_tail(self, lines: int = 60) -> str:
        """The end of what Krita wrote to stdout and stderr."""
        log = self.work / "krita.log"
        text = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([line for line in text if not line.startswith(NOISE)][-lines:])

    def screenshot(self, name: str) -> Path:
        """The whole screen as tests/output/NAME.png."""
        OUTPUT.mkdir(parents=True, exist_ok=True)
        path = OUTPUT / f"{name}.png"
        subprocess.run(["import", "-silent", "-window", "root", str(path)], env=self.env, check=False, timeout=30)
        return path

    def pixels(self) -> tuple[int, int, bytes]:
        """What the screen shows now: width, height, and rgb8 rows without padding."""
        width, height = (int(number) for number in SCREEN.split("x")[:2])
        command = ["import", "-silent", "-window", "root", "-depth", "8", "rgb:-"]
        done = subprocess.run(command, env=self.env, check=True, timeout=30, stdout=subprocess.PIPE)
        return width, height, done.stdout

    def dump(self, name: str) -> str:
        """Everything that explains a failure: a screenshot, open dialogs, the end of the logs."""
        shot = self.screenshot(f"fail-{name}")
        try:
            seen = json.dumps(self.eval("{'dialogs': dialogs(), 'errors': ERRORS}"), indent=1)
        except (Failure, OSError) as error:
            seen = str(error)
        logs = [self.log_tail()]
        for path in sorted(self.state.rglob("*.log*")):
            logs.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:]))
        return f"screenshot: {shot}\n{seen}\n" + "\n".join(logs)


def _cache_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"krita-sd-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _template() -> Path:
    """A data folder with Krita's resource database already built: a first start costs 13 to 50 seconds, a copy none."""
    folder = _cache_folder()
    target = folder / f"data-{Room.chosen().key()}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            session = Session()
            with session:
                session.run("K.action('file_quit').trigger()")
                assert session.krita is not None
                session.krita.wait(30)
                shutil.rmtree(session.resources / "pykrita")
                part = target.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(session.work / "data", part)
                part.rename(target)
    return target


def install_plugin(resources: Path) -> None:
    """Install the plugin under test with install.py's own code, for the interpreter that runs the tests."""
    plugin.install_plugin(ROOT, Path(sys.executable), Place("the tests", resources, None))


def install_plugin_alone(resources: Path) -> None:
    """The same without telling the plugin of a server that it could start."""
    install_plugin(resources)
    (resources / "pykrita" / "krita_sd" / plugin.LOCAL).unlink()
