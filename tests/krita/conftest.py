# SPDX-License-Identifier: GPL-3.0-or-later
"""A Krita per test module, a clean set of documents per test, and evidence when something fails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.krita.driver import Hand
from tests.krita.room import Room
from tests.krita.session import Session, install_plugin, install_plugin_alone, need_programs

if Room.chosen().root is not None:
    # tmp_path must be a folder that Krita sees too.
    Room.chosen().prepare()
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(Room.chosen().files))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/krita" in str(item.path):
            item.add_marker(pytest.mark.krita)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when in ("setup", "call") and report.failed:
        session = getattr(item, "funcargs", {}).get("session")
        if session is not None:
            report.sections.append(("Krita", session.dump(re.sub(r"\W+", "-", item.name))))
    return report


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """With a server, where the module says `SERVER = True`."""
    need_programs()
    plugin = install_plugin if getattr(request.module, "SERVER", False) else install_plugin_alone
    env = {"KRITA_SD_MODELS": os.environ["KRITA_SD_MODELS"]} if "KRITA_SD_MODELS" in os.environ else {}
    with Session(plugin, env) as started:
        yield started


@pytest.fixture
def hand(session: Session) -> Hand:
    return Hand(session)


@pytest.fixture(autouse=True)
def no_errors(session: Session) -> Iterator[None]:
    """No uncaught exception in any slot, no forgotten dialog, no document left."""
    session.run("ERRORS.clear()")
    yield
    assert session.eval("ERRORS") == []
    session.run("close_all()")
    session.wait("not all_documents()")
