# SPDX-License-Identifier: GPL-3.0-or-later
"""The start of a worker: its imports are not looked through for garbage, and what comes after them is."""

from __future__ import annotations

import gc

import pytest

from server.worker.loop import without_collections


def test_the_collector_rests_during_the_imports_and_works_again_afterwards() -> None:
    before = gc.get_freeze_count()
    try:
        with without_collections():
            assert not gc.isenabled()
            kept = [[number] for number in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() - before > len(kept), "what was made is looked through again later"
    finally:
        gc.unfreeze()


def test_a_failed_import_leaves_the_collector_at_work() -> None:
    try:
        with pytest.raises(ImportError), without_collections():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
