# SPDX-License-Identifier: GPL-3.0-or-later
"""A server of one's own for one command: started on a free port with a temporary state folder, ended afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from krita_sd.wire.errors import Code, WireError

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
LEAVE_SECONDS = 10.0
_LISTENING = re.compile(r"listening on (ws://\S+)")


@contextlib.asynccontextmanager
async def own_server(models: Sequence[Path], machine: Sequence[str]) -> AsyncIterator[tuple[str, str]]:
    """(address, token) of a server that lives as long as the block. Raises WireError when it does not start."""
    state = Path(tempfile.mkdtemp(prefix="krita-sd-"))
    command = [sys.executable, "-m", "server", "--port", "0", "--state", str(state), "--owner", str(os.getpid())]
    command += machine
    for folder in models:
        command += ["--models", str(folder.absolute())]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl+C is ours: it cancels the job, and the server must live to say so.
        start_new_session=sys.platform != "win32",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield await _address(process), (state / "token").read_text("ascii").strip()
    finally:
        await asyncio.shield(asyncio.to_thread(_end, process))
        shutil.rmtree(state, ignore_errors=True)


async def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None and process.stderr is not None
    try:
        line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), START_SECONDS)
    except asyncio.TimeoutError:
        raise WireError(Code.INTERNAL, "The server did not start in time.", "Try again.") from None
    match = _LISTENING.search(line)
    if match is None:
        said = (await asyncio.to_thread(process.stderr.read)).strip().splitlines()
        raise WireError(Code.INTERNAL, said[-1] if said else "The server did not start.")
    return match.group(1)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
