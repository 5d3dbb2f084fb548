# SPDX-License-Identifier: GPL-3.0-or-later
"""Model folders and downloads by keys and clicks, in the real Krita with a server; in German, as Krita says it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from krita_sd.translations import FOLDER, read
from tests.krita.session import Session, install_plugin, need_programs
from tests.krita.studio import Studio
from tests.server.harness import running
from tests.server.hub import FakeHub, serving
from tests.tiny import make_file

OFFER, FILE = "sdxl-vae-fp16", "sdxl.vae.safetensors"
GERMAN = read(FOLDER / "de.po")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder is not made yet; another program's folder has one model."""
    root = tmp_path_factory.mktemp("collection")
    shared = root / "webui" / "models" / "Stable-diffusion"
    shared.mkdir(parents=True)
    make_file(shared / "shared.safetensors")
    return root


@pytest.fixture(scope="module")
def hub(place: Path) -> Iterator[FakeHub]:
    data = (place / "webui" / "models" / "Stable-diffusion" / "shared.safetensors").read_bytes()
    with serving(FakeHub({"madebyollin/sdxl-vae-fp16-fix": {FILE: data}})) as fake:
        yield fake


@pytest.fixture(scope="module")
def session(place: Path, hub: FakeHub) -> Iterator[Session]:
    need_programs()
    environ = {"HF_ENDPOINT": hub.url, "KRITA_SD_MODELS": str(place / "models"), "LANGUAGE": "de"}
    with Session(_with_tags, environ) as started:
        yield started


def _with_tags(resources: Path) -> None:
    install_plugin(resources)
    tags = resources / "krita_sd" / "tags"
    tags.mkdir(parents=True)
    (tags / "mine.csv").write_text("zebra_crossing,0,500,\nzeppelin,0,20,airship\n", encoding="utf-8")


@pytest.fixture(scope="module")
def studio(session: Session) -> Studio:
    studio = Studio(session)
    studio.document(64, 64)
    session.run("A = __import__('krita_sd.plugin', fromlist=['x']).actions()")
    session.wait("A.table.connected", 60, "the connection")
    return studio


def test_krita_in_german_has_a_german_docker(studio: Studio, session: Session) -> None:
    assert session.eval("widget_state('krita_sd_generate')['text']") == GERMAN["Generate"]
    assert session.eval("K.action('krita_sd_action_cancel').text()").replace("&", "") == GERMAN["Krita SD: Cancel"]
    session.wait(f"{GERMAN['Connected to {where}: {device}.'][:9]!r} in A.view.status", 30)


def test_the_folder_of_another_program_is_shared_and_let_go_of(studio: Studio, session: Session, place: Path) -> None:
    session.run("A.show_page('models')")
    studio.click("krita_sd_models_folders")
    studio.click("krita_sd_folders_path")
    studio._xdotool("type", "--delay", "8", str(place / "webui"))
    studio.key("Return")
    session.wait("any(m['name'] == 'shared' for m in A.models)", 20, "the model of the other program")
    session.wait("[f.report.get('program') for f in A.collection.folders()][1:] == ['Stable Diffusion web UI']", 10)
    session.screenshot("folders")
    session.run(f"A.collection.drop_folder({str(place / 'webui')!r})")
    session.wait("not any(m['name'] == 'shared' for m in A.models)", 20, "the model to go")


def test_a_model_is_downloaded_after_its_size_was_shown(
    studio: Studio, session: Session, place: Path, hub: FakeHub
) -> None:
    session.run("A.show_page('downloads')")
    session.wait("len(A.collection.offers) > 5", 20, "the list")
    assert hub.requests == []
    session.run(
        "W = __import__('krita_sd.qt', fromlist=['x']).QtWidgets; "
        "tree = A.dockers()[0].findChild(W.QTreeWidget, 'krita_sd_downloads_list'); "
        f"row = [o['id'] for o in A.collection.offers].index({OFFER!r}); tree.setCurrentItem(tree.topLevelItem(row))"
    )
    studio.click("krita_sd_downloads_go")
    session.wait("widget_state('krita_sd_downloads_go')['text'].endswith('MB herunterladen')", 20, "the size")
    assert not (place / "models").exists()
    studio.click("krita_sd_downloads_go")
    session.wait(f"[o for o in A.collection.offers if o['id'] == {OFFER!r}][0]['phase'] == 'installed'", 30)
    session.wait("any(m['name'] == 'sdxl.vae' for m in A.models)", 20, "the model in the list")
    session.screenshot("downloads")
    assert (place / "models" / OFFER / FILE).is_file()


def test_words_of_the_painters_own_tag_file_complete(studio: Studio, session: Session) -> None:
    session.run("A.show_page('downloads')")  # back to the workspace
    studio.click("krita_sd_prompt")
    studio._xdotool("type", "--delay", "30", "a zeb")
    session.wait("(widget_state('krita_sd_prompt_completion') or {}).get('visible')", 10, "the completions")
    studio.key("Tab")
    session.wait("widget_state('krita_sd_prompt')['toPlainText'] == 'a zebra crossing'", 10)


def test_another_server_is_used_by_its_address_and_token(studio: Studio, session: Session, tmp_path: Path) -> None:
    """And its folders are its own affair; "" is this machine's again."""
    with running(tmp_path / "state") as other:
        session.run("A.show_page('server')")
        studio.type_into("krita_sd_server", other.url)
        studio.type_into("krita_sd_token", other.token)
        studio.click("krita_sd_connect")
        session.wait(f"A.table.connected and {other.url!r} in A.view.status", 30, "the other server")
        assert session.eval("A.collection.folders()") == []
        session.run("A.serving.copy_diagnostics()")
        session.wait("'Krita SD' in QtWidgets.QApplication.clipboard().text()", 20, "the report")
        assert other.token not in session.eval("QtWidgets.QApplication.clipboard().text()")
        session.run("A.serving.use_server('', '')")
        session.wait(f"A.table.connected and {other.url!r} not in A.view.status", 30, "this machine's server")
