# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads over real connections that break, lie, redirect and do not resume: what is put into place is right."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from krita_sd.wire.errors import Code, WireError
from server.library import download, download_plan, hub_http
from server.library.capabilities import FILES, FOLDERS
from server.library.download import RETRIES, Download, arrived
from server.library.download_plan import SAFE, DownloadPlan, ask, plan_of
from server.library.hub_http import Hub
from server.library.offers import DIFFUSERS, OFFERS, Offer
from tests.server.hub import FakeHub, serving
from tests.tiny import make_file

OFFER = Offer("pretty", "Pretty", "checkpoint", "sd1", "maker/pretty", ("pretty.safetensors", "config.json"), "MIT")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_file(tmp_path_factory.mktemp("weights") / "w.safetensors").read_bytes()


@pytest.fixture
def hub(weights: bytes) -> Iterator[FakeHub]:
    content = {"pretty.safetensors": weights, "config.json": b'{"a": 1}', "pretty.ckpt": b"pickle", "README.md": b"x"}
    with serving(FakeHub({"maker/pretty": content})) as fake:
        yield fake


def client(fake: FakeHub, **environ: str) -> Hub:
    return Hub({"HF_ENDPOINT": fake.url, **environ})


class Run:
    """One download of OFFER into `models`."""

    def __init__(self, fake: FakeHub, models: Path) -> None:
        self.fake, self.models = fake, models
        self.reports: list[tuple[int, bool]] = []

    def plan(self) -> DownloadPlan:
        with client(self.fake) as hub:
            return ask(OFFER, hub)

    def make(self, plan: DownloadPlan | None = None) -> Download:
        return Download(plan or self.plan(), self.models, "pretty", lambda *report: self.reports.append(report), 0.001)

    def go(self, plan: DownloadPlan | None = None) -> Path:
        with client(self.fake) as hub:
            return self.make(plan).run(hub)


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(download, "RESERVE", 0)
    return Run(hub, tmp_path / "models")


def is_whole(run: Run, weights: bytes) -> bool:
    folder = run.models / "pretty"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "pretty.safetensors"] and not (run.models / ".downloads" / "pretty").exists()
    return (folder / "pretty.safetensors").read_bytes() == weights


def test_the_size_is_known_before_anything_is_fetched(run: Run, weights: bytes) -> None:
    plan = run.plan()
    assert plan.size == len(weights) + 8 and {file.name for file in plan.files} == {"pretty.safetensors", "config.json"}
    assert len(run.fake.requests) == 1 and not run.models.exists()


def test_a_download_arrives_whole_and_tells_its_progress(run: Run, weights: bytes) -> None:
    assert run.go() == run.models / "pretty" and is_whole(run, weights)
    done = [size for size, _ in run.reports]
    assert done == sorted(done) and done[-1] == len(weights) + 8


def test_broken_connections_are_resumed_where_they_broke(run: Run, weights: bytes) -> None:
    """Also where a connection ends before its first byte."""
    run.fake.breaks = [1000, 0, 500]
    run.go()
    assert is_whole(run, weights)
    starts = [headers.get("Range") for headers in run.fake.asked("/cdn/maker/pretty//pretty.safetensors")]
    assert starts == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]


def test_a_hub_that_does_not_resume_is_asked_from_the_beginning(run: Run, weights: bytes) -> None:
    run.fake.ranges, run.fake.breaks = False, [1000]
    run.go()
    assert is_whole(run, weights)


def test_what_was_stopped_goes_on_in_another_process(run: Run, weights: bytes) -> None:
    plan = run.plan()
    run.fake.breaks = [2000] + [0] * RETRIES
    with pytest.raises(WireError, match="cannot be reached") as caught:
        run.go(plan)
    assert caught.value.code is Code.INTERRUPTED and caught.value.retryable
    assert arrived(run.models, "pretty") == 2000 and not (run.models / "pretty").exists()
    run.go(plan)
    assert is_whole(run, weights) and run.fake.asked("/cdn/")[-2]["Range"] == "bytes=2000-"


def test_finished_files_are_not_fetched_twice(run: Run, weights: bytes) -> None:
    plan = run.plan()
    plan = replace(plan, files=tuple(sorted(plan.files, key=lambda file: file.size)))
    run.fake.breaks = [8] + [0] * RETRIES
    with pytest.raises(WireError):
        run.go(plan)
    run.go(plan)
    assert is_whole(run, weights) and len(run.fake.asked("/cdn/maker/pretty//config.json")) == 1


def test_another_revision_is_not_mixed_with_the_old_one(run: Run, weights: bytes) -> None:
    """The hub's files change between two tries: nothing of the old ones remains."""
    plan = run.plan()
    plan = replace(plan, files=tuple(sorted(plan.files, key=lambda file: file.size)))
    run.fake.breaks = [8, 3000] + [0] * RETRIES
    with pytest.raises(WireError):
        run.go(plan)
    newer = weights[:-4] + b"\1\2\3\4"
    run.fake.repos["maker/pretty"] |= {"pretty.safetensors": newer, "config.json": b'{"a": 2}'}
    run.go()
    assert is_whole(run, newer) and (run.models / "pretty" / "config.json").read_bytes() == b'{"a": 2}'


def test_a_damaged_file_is_fetched_once_more(run: Run, weights: bytes) -> None:
    run.fake.damaged = 1
    run.go()
    assert is_whole(run, weights)


def test_a_file_that_stays_damaged_is_thrown_away(run: Run) -> None:
    run.fake.damaged = 2
    with pytest.raises(WireError, match="arrived damaged twice") as caught:
        run.go()
    assert caught.value.code is Code.MODEL_CORRUPT and not (run.models / "pretty").exists()
    assert arrived(run.models, "pretty") == 0


def test_a_page_instead_of_a_model_is_never_put_into_place(run: Run) -> None:
    """With the right checksum even: what is no safetensors file is refused by its header."""
    run.fake.repos["maker/pretty"]["pretty.safetensors"] = b"<!DOCTYPE html><html>" * 50
    with pytest.raises(WireError) as caught:
        run.go()
    assert caught.value.code is Code.MODEL_CORRUPT and not (run.models / "pretty").exists()


def test_cancelling_keeps_what_has_arrived(run: Run, weights: bytes) -> None:
    plan = run.plan()
    plan = replace(plan, files=tuple(sorted(plan.files, key=lambda file: file.size)))
    job = run.make(plan)
    run.reports = _Tripwire(8, job.cancel)
    with client(run.fake) as hub, pytest.raises(WireError) as caught:
        job.run(hub)
    assert caught.value.code is Code.CANCELLED and arrived(run.models, "pretty") > 0
    run.reports = []
    run.go(plan)
    assert is_whole(run, weights)


class _Tripwire(list[Any]):
    """A list of reports that pulls a wire at the first one beyond so many bytes."""

    def __init__(self, beyond: int, pull: Callable[[], None]) -> None:
        super().__init__()
        self._beyond, self._pull = beyond, pull

    def append(self, report: Any) -> None:
        super().append(report)
        if report[0] > self._beyond:
            self._pull()


def test_a_full_disk_is_said_before_the_first_byte(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    plan = run.plan()
    with pytest.raises(WireError, match="are needed on the disk") as caught:
        run.go(plan)
    assert caught.value.code is Code.DISK_FULL and not run.fake.asked("/cdn/")


def test_a_disk_that_fills_up_on_the_way_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_note_finished", full)
    with pytest.raises(WireError, match="disk of the models folder is full"):
        run.go()


def test_a_folder_that_is_there_already_is_not_touched(run: Run, weights: bytes) -> None:
    (run.models / "pretty").mkdir(parents=True)
    (run.models / "pretty" / "mine").write_text("x")
    with pytest.raises(WireError, match="already a folder"):
        run.go()
    (run.models / "pretty").rename(run.models / "other")
    fetched = len(run.fake.asked("/cdn/"))
    run.go()
    assert is_whole(run, weights) and len(run.fake.asked("/cdn/")) == fetched


@pytest.mark.parametrize(
    "status, code, says",
    [
        (401, Code.UNAUTHORIZED, "accepted its licence"),
        (403, Code.UNAUTHORIZED, "HF_TOKEN"),
        (404, Code.MODEL_MISSING, "no longer has"),
        (503, Code.INTERRUPTED, "cannot be reached"),
        (418, Code.INTERRUPTED, "status 418"),
    ],
)
def test_what_the_hub_answers_is_a_sentence(run: Run, status: int, code: Code, says: str) -> None:
    plan = run.plan()
    run.fake.status = status
    for attempt in (lambda: run.go(plan), run.plan):
        with pytest.raises(WireError) as caught:
            attempt()
        assert caught.value.code is code and says in str(caught.value)


def test_without_a_network_there_is_a_sentence() -> None:
    with Hub({"HF_ENDPOINT": "http://127.0.0.1:1"}) as hub, pytest.raises(WireError, match="cannot be reached"):
        ask(OFFER, hub)
    with pytest.raises(WireError, match="switched off"):
        Hub({"HF_HUB_OFFLINE": "1"})


def test_the_token_goes_to_the_hub_and_nowhere_else(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not to where the content is redirected to; and what ~/.netrc has for that host stays at home."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with client(run.fake, HF_TOKEN="hf_secret") as hub:
        run.make(ask(OFFER, hub)).run(hub)
    assert all(headers["Authorization"] == "Bearer hf_secret" for headers in run.fake.asked("maker/pretty/re"))
    assert run.fake.asked("/cdn/") and all("Authorization" not in headers for headers in run.fake.asked("/cdn/"))
    run.fake.requests.clear()
    run.plan()
    assert "Authorization" not in run.fake.requests[0][1]


@pytest.mark.parametrize("target", ["http://elsewhere.example/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_to_somewhere_unsafe_is_not_followed(run: Run, target: str) -> None:
    plan = run.plan()
    run.fake.redirect_to = target
    with pytest.raises(WireError, match="without encryption"):
        run.go(plan)


def test_redirects_in_a_circle_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = run.plan()
    run.fake.redirect_to = plan.url(run.fake.url, plan.files[0])
    with pytest.raises(WireError, match="cannot be reached"):
        run.go(plan)
    assert len(run.fake.requests) < 60


def sibling(name: str, **changes: Any) -> dict[str, Any]:
    return {"rfilename": name, "lfs": {"sha256": "a" * 64, "size": 5}, **changes}


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/x.safetensors", "a/../x.safetensors", "a\\x.safetensors", ".x.safetensors", "a//../b.json"],
)
def test_names_that_leave_the_folder_are_not_taken(name: str) -> None:
    offer = replace(OFFER, files=("*",))
    plan = plan_of(offer, {"sha": "a" * 40, "siblings": [sibling(name), sibling("ok.safetensors")]})
    assert [file.name for file in plan.files] == ["ok.safetensors"]


@pytest.mark.parametrize(
    "answer",
    [
        None, [], {}, {"sha": "main", "siblings": []}, {"sha": "a" * 40}, {"sha": "a" * 40, "siblings": [None, 5, {}]},
        {"sha": "a" * 40, "siblings": [sibling("pretty.safetensors")]},  # config.json is not there
        {"sha": "a" * 40, "siblings": [{"rfilename": "pretty.safetensors"}]},
        {"sha": "a" * 40, "siblings": [sibling("pretty.safetensors", lfs={"sha256": "x", "size": 5})]},
        {"sha": "a" * 40, "siblings": [sibling("pretty.safetensors", lfs={"sha256": "a" * 64, "size": -1})]},
    ],
)  # fmt: skip
def test_a_strange_answer_is_a_sentence(answer: Any) -> None:
    with pytest.raises(WireError) as caught:
        plan_of(OFFER, answer)
    assert caught.value.code is Code.MODEL_UNSUPPORTED


def test_a_file_that_is_known_here_may_not_be_another(weights: bytes) -> None:
    digest = hashlib.sha256(weights).hexdigest()
    answer = {"sha": "a" * 40, "siblings": [sibling("x.safetensors", lfs={"sha256": digest, "size": 5})]}
    known = replace(OFFER, files=("x.safetensors",), checksums={"x.safetensors": digest})
    assert plan_of(known, answer).files[0].digest == f"sha256:{digest}"
    with pytest.raises(WireError, match="not the file that is known here"):
        plan_of(replace(known, checksums={"x.safetensors": "b" * 64}), answer)


def test_of_a_folder_only_what_a_model_needs_is_fetched() -> None:
    """No pickles, no second copy of the weights in half precision, no single file beside the folder."""
    names = (
        "model_index.json", "transformer/a-00001-of-00002.safetensors", "transformer/a.safetensors.index.json",
        "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin",
        "tokenizer/spiece.model", "vae/only.fp16.safetensors", "all-in-one.safetensors", "README.md", "x.py",
    )  # fmt: skip
    offer = replace(OFFER, files=DIFFUSERS)
    plan = plan_of(offer, {"sha": "a" * 40, "siblings": [sibling(name) for name in names]})
    assert [file.name for file in plan.files] == [*names[:4], "tokenizer/spiece.model", "vae/only.fp16.safetensors"]


def test_a_folder_of_the_repository_can_be_left_away() -> None:
    offer = replace(OFFER, files=("models/x.safetensors",), strip="models/")
    (file,) = plan_of(offer, {"sha": "a" * 40, "siblings": [sibling("models/x.safetensors")]}).files
    assert (file.name, file.source) == ("x.safetensors", "models/x.safetensors")


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer.id)
def test_every_row_of_the_table_can_be_used_when_it_has_arrived(offer: Offer) -> None:
    assert download_plan._NAME.fullmatch(offer.id) and offer.repo.count("/") == 1 and offer.licence and offer.note
    is_folder = "model_index.json" in offer.files
    if offer.kind == "checkpoint":
        assert offer.family in (FOLDERS if is_folder else FILES)
    plain = [name for name in offer.files if "*" not in name]
    assert all(Path(name).suffix in SAFE for name in plain) and set(offer.checksums) <= set(plain)
    assert all(len(digest) == 64 for digest in offer.checksums.values())


def test_the_ids_of_the_table_are_unlike() -> None:
    assert len({offer.id for offer in OFFERS}) == len(OFFERS) and not SAFE & {".bin", ".ckpt", ".pt", ".pkl", ".py"}


def test_nothing_is_asked_of_anybody_without_a_download() -> None:
    """The only module of the server that can reach out is the one that downloads use."""
    root = Path(hub_http.__file__).parents[1]
    using = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "training" not in path.parts
        and ("hub_http" in (text := path.read_text("utf-8")) or "import requests" in text)
    }
    assert using == {
        "library/hub_http.py", "library/download_plan.py", "library/download.py", "front/downloads.py",
        "cli/download.py",
    }  # fmt: skip
