# SPDX-License-Identifier: GPL-3.0-or-later
"""The start of a worker: its imports are not looked through for garbage, and it keeps the memory of its buffers."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from pathlib import Path

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


_FILL_TWICE = """
import ctypes, resource
from server.worker.device import keep_buffers, release
SIZE = 96 * 2**20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = libc.malloc(SIZE)
    ctypes.memset(buffer, 1, SIZE)
    libc.free(buffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_buffers()
first, again = faults(), faults()
release("cpu")
print(first, again, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc can be told")
def test_a_large_buffer_is_used_again_until_memory_is_released() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", _FILL_TWICE], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    first, again, released = map(int, done.stdout.split())
    assert again < first / 10, "its pages were not cleared again"
    assert released > first / 2, "they had gone back to the system"
