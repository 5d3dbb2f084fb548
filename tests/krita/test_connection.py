# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection that drops in the middle of a job loses nothing, and nothing comes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.krita.driver import poll
from tests.krita.proxy import Proxy
from tests.krita.session import ROOT, Session, install_plugin_alone, need_programs
from tests.krita.studio import Studio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server of its own, as on another machine; its state folder."""
    state = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "server", "--state", str(state), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "2"}, stdout=subprocess.DEVNULL)
    try:
        poll(lambda: (state / "server.json").exists(), 180, "the server to listen")
        yield state
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def wire(server: Path) -> Iterator[Proxy]:
    proxy = Proxy(int(json.loads((server / "server.json").read_text())["port"]))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def session(server: Path, wire: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    need_programs()
    folder = tmp_path_factory.mktemp("settings")
    token = (server / "token").read_text().strip()
    settings = {"version": 1, "server_uri": f"ws://127.0.0.1:{wire.port}/v1", "server_token": token, "prompt": "a hill"}
    (folder / "settings.json").write_text(json.dumps(settings))
    with Session(install_plugin_alone, {"KRITA_SD_SETTINGS": str(folder)}) as started:
        yield started


def applied_once(studio: Studio, before: int, blank: str) -> None:
    """One result, one layer, one step, and one answer to Undo."""
    assert studio.look()["results"] == before + 1
    studio.apply()
    assert studio.undo_steps() == ["Add Layer"] and len(studio.layer_names()) == 2
    assert studio.digest() != blank
    studio.undo()
    assert studio.digest() == blank


@pytest.mark.essential
def test_connection_dropped_while_previews_come(session: Session, wire: Proxy) -> None:
    """The job goes on while the client is away, and its result comes once.

    Seen to fail when every hello opens another session: the result never comes."""
    studio = Studio(session)
    studio.document(256, 192)
    studio.connected()
    studio.steps(8)
    blank, before, accepted = studio.digest(), studio.look()["results"], wire.accepted
    studio.generate()
    studio.preview(blank)
    wire.drop()
    studio.result(before)
    assert wire.accepted > accepted, "it connected again"
    session.screenshot("connection-dropped")
    applied_once(studio, before, blank)


def test_result_made_while_nobody_was_connected(session: Session, wire: Proxy, server: Path) -> None:
    """The result is replayed to the next connection, and not again to the one after.

    Seen to fail when every hello opens another session: the result never comes."""
    studio = Studio(session)
    studio.document(256, 192)
    studio.connected()
    blank, before, kept = studio.digest(), studio.look()["results"], pictures(server)
    studio.generate()
    studio.preview(blank)
    wire.refusing = True
    wire.drop()
    try:
        poll(lambda: pictures(server) > kept, 240, "the server to keep the result on its disk")
    finally:
        wire.refusing = False
    studio.result(before, 240)
    # Once more: what was acknowledged must not come again.
    accepted = wire.accepted
    wire.drop()
    poll(lambda: wire.accepted > accepted, 120, "a third connection")
    studio.connected()
    applied_once(studio, before, blank)


def test_krita_started_again_in_the_middle_of_a_job(session: Session) -> None:
    """The job goes on at the server; its document, opened again, gets its previews, its result and its layer."""
    studio = Studio(session)
    studio.document(256, 192)
    studio.connected()
    path = str(session.work / "again.kra")
    session.run(f"d = K.activeDocument(); d.setBatchmode(True); d.saveAs({path!r})")
    session.wait("idle()")
    session.run("A = __import__('krita_sd.plugin', fromlist=['x']).actions()")
    session.run("A.change(count=9, previews='rgb'); A.change_params(steps=100)")
    session.wait("A.settings.count == 9")
    blank = studio.digest()
    studio.generate()
    studio.preview(blank)
    session.wait("__import__('json').load(open(A.folder / 'jobs.json'))", 60, "what belongs where to be on the disk")
    session.restart()
    studio = Studio(session)
    session.run(f"K.activeWindow().addView(K.openDocument({path!r}))")
    session.wait("idle() and canvas_state() is not None")
    session.run("A = __import__('krita_sd.plugin', fromlist=['x']).actions()")
    session.wait("A.table.active and all(job.document for job in A.table.active)", 120, "the job to find its document")
    studio.preview(blank)
    session.screenshot("started-again")
    studio.click("krita_sd_keep")
    session.wait("A.table.results and not A.table.active", 120, "what there was")
    studio.apply()
    assert session.eval("K.activeDocument().fileName()") == path
    assert len(studio.layer_names()) == 2 and studio.digest() != blank
    session.run("A.change(count=1); A.change_params(steps=None)")
    session.run("[A.discard() for _ in list(A.table.results)]")


def pictures(state: Path) -> int:
    """How many pictures the server keeps on its disk: results that nobody has acknowledged (there are no inputs)."""
    return sum(path.is_file() for path in (state / "pictures").glob("*"))
