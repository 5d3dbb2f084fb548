# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin loads in the real Krita and its docker is there."""

from __future__ import annotations

import pytest

from tests.krita.session import Session


@pytest.mark.essential
def test_plugin_loads_and_the_docker_is_visible(session: Session) -> None:
    titles = session.eval("[d.windowTitle() for d in K.dockers()]")
    assert "Krita SD" in titles
    assert "krita_sd" not in session.log_tail(400).replace("krita_sd/", "")
    session.screenshot("smoke")
