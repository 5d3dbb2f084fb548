# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of the serving process: start, second start, owner, signals, and what it must not load or reach."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from krita_sd.wire.version import VERSION
from tests.server.harness import Painter, ServerProcess, alive, environment, launch, run_cli, running, tiny, wait_for


def test_it_says_where_it_listens_and_writes_server_json(server: ServerProcess) -> None:
    data = json.loads((server.state / "server.json").read_text())
    assert data["port"] == server.port and data["pid"] == server.process.pid
    assert data["version"] == VERSION and data["protocol"] == "ksd.1" and data["instance"]


def test_the_front_never_loads_torch_or_numpy(server: ServerProcess) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "torch" not in maps and "numpy" not in maps


def test_importing_the_front_imports_nothing_heavy() -> None:
    code = (
        "import sys, server.front.app, server.__main__, server.cli.generate; "
        "print([m for m in ('torch', 'numpy', 'PIL', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_second_server_on_the_same_state_is_one_sentence(server: ServerProcess) -> None:
    done = run_cli("--state", server.state)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "already running" in done.stderr and "--state" in done.stderr
    assert (server.state / "server.json").exists(), "the running server's file is untouched"


def test_a_taken_port_is_one_sentence(server: ServerProcess, tmp_path: Path) -> None:
    done = run_cli("--state", tmp_path / "state", "--port", server.port)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert str(server.port) in done.stderr and "--port" in done.stderr
    assert not (tmp_path / "state" / "server.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "70000"],
        ["--port", "x"],
        ["--device", "toaster"],
        ["--models", "/does/not/exist"],
        ["--owner", "0"],
        ["--nonsense"],
        ["nonsense"],
        ["--state", "/proc/nope/state"],
        ["--state", "STATE", "--host", "256.0.0.1"],
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], tmp_path: Path) -> None:
    done = run_cli(*[str(tmp_path / "state") if item == "STATE" else item for item in arguments])
    assert done.returncode in (1, 2) and done.stdout == ""
    assert done.stderr.strip().count("\n") == 0 and "Traceback" not in done.stderr, done.stderr


def test_a_state_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_cli("--state", tmp_path / "file")
    assert done.returncode == 2 and "state folder" in done.stderr and done.stderr.count("\n") == 1


def test_a_damaged_token_file_is_one_sentence_and_a_given_one_is_used(tmp_path: Path, models: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\xff\xfe\0")
    done = run_cli("--state", tmp_path / "a", "--token-file", tmp_path / "bad")
    assert done.returncode == 2 and "token file" in done.stderr
    (tmp_path / "token").write_text("my-own-token\n")
    with running(tmp_path / "b", "--token-file", tmp_path / "token"):
        assert not (tmp_path / "b" / "token").exists()
        assert (tmp_path / "token").stat().st_mode & 0o077 == 0


def test_sigterm_leaves_no_process(tmp_path: Path, models: Path) -> None:
    """Also while the worker is still importing, and its server.json is gone."""
    server = launch(tmp_path / "state", "--models", models)
    workers = wait_for(server.children, "the worker")
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 10
    assert not any(alive(pid) for pid in workers)
    assert not (server.state / "server.json").exists()


async def test_sigterm_in_the_middle_of_a_job_leaves_no_process(tmp_path: Path, models: Path) -> None:
    with running(tmp_path / "state", "--models", models) as server:
        async with server.client() as client:
            painter = Painter(client)
            job = painter.submit(tiny(steps=150), count=20)
            await painter.reaches(job, "sampling")
            workers = server.children()
            started = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started < 10
        assert workers and not any(alive(pid) for pid in workers)


def test_a_killed_front_takes_its_worker_with_it(tmp_path: Path, models: Path) -> None:
    server = launch(tmp_path / "state", "--models", models)
    workers = wait_for(server.children, "the worker")
    server.kill()
    wait_for(lambda: not any(alive(pid) for pid in workers), "the worker's end")
    # The lock of a killed server does not stop the next one.
    with running(tmp_path / "state", "--models", models):
        pass


def test_it_leaves_after_its_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    server = launch(tmp_path / "state", "--owner", str(owner.pid))
    kept = launch(tmp_path / "kept", "--owner", str(owner.pid), "--keep")
    try:
        workers = wait_for(server.children, "the worker")
        time.sleep(1.5)
        assert server.process.poll() is None
        owner.kill()  # and not waited for: a zombie counts as gone
        died = time.monotonic()
        assert server.process.wait(60) == 0
        assert time.monotonic() - died < 10
        assert not any(alive(pid) for pid in workers)
        assert kept.process.poll() is None
    finally:
        owner.wait()
        assert kept.stop() == 0


def test_an_owner_that_never_was_ends_it_too(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    server = launch(tmp_path / "state", "--owner", str(gone.pid))
    assert server.process.wait(60) == 0


async def test_no_connection_goes_out_and_no_file_beside_the_roots_is_touched(tmp_path: Path, models: Path) -> None:
    """An audit hook in every process of the server records connects, and opens and listings by hostile ids."""
    record = tmp_path / "audit"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys, os\n"
        f"record = os.open({str(record)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "watched = ('socket.connect', 'socket.getaddrinfo', 'pickle.find_class', 'os.system', 'subprocess.Popen')\n"
        "def hook(event, args):\n"
        "    touched = event in ('open', 'os.listdir', 'os.scandir') and 'hostile' in repr(args[0])\n"
        "    if event in watched or touched:\n"
        "        os.write(record, (event + ' ' + repr(args)[:200] + chr(10)).encode())\n"
        "sys.addaudithook(hook)\n"
    )
    with running(tmp_path / "state", "--models", models, PYTHONPATH=str(tmp_path / "site")) as server:
        async with server.client() as client:
            painter = Painter(client)
            await painter.ended(painter.submit(tiny()))
            for id in ("../hostile", "/hostile/x", "hostile.ckpt", f"{models}/hostile"):
                await painter.ended(painter.submit(tiny(model=id)))
    lines = record.read_text().splitlines()
    allowed = [line for line in lines if line.startswith("subprocess.Popen") and "server.worker" in line]
    assert allowed, "the hook was not active"
    unexpected = [line for line in lines if line not in allowed and not _harmless(line)]
    assert not unexpected, unexpected


def _harmless(line: str) -> bool:
    # asyncio's resolver asks for the numeric address it listens on; platform libraries run uname and the like.
    return (line.startswith("socket.getaddrinfo") and "127.0.0.1" in line) or (
        line.startswith("subprocess.Popen") and "server.worker" not in line and "/" not in line.split(",")[0]
    )


async def test_proxies_of_the_environment_are_ignored(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy that is dead, and one that listens and would be asked first."""
    trap = socket.create_server(("127.0.0.1", 0))
    trap.settimeout(0.2)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{trap.getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with server.client() as client:
        assert (await (painter := Painter(client)).ended(painter.submit(tiny()))).names[-1] == "done"
    done = run_cli(
        "generate", "--out", tmp_path / "x.png", "--server", server.url, "--token-file", server.state / "token",
        "--width", 64, "--height", 64, "--model", "tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with pytest.raises(TimeoutError):
        trap.accept()
    trap.close()


def test_ctrl_c_in_a_terminal_ends_everything(tmp_path: Path, models: Path) -> None:
    """A terminal sends SIGINT to the whole group; the worker leaves it to the front."""
    command = [sys.executable, "-m", "server", "--state", str(tmp_path / "state")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment())
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    wait_for(lambda: _group_is_empty(process.pid), "the end of the whole group")


def _group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
