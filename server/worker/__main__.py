# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m server.worker`: the process around the work loop. Started by the pool, not by people."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from .loop import WorkLoop


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m server.worker")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--leave-free", type=float, default=0.0, help="GB of the device left to other programs")
    arguments = parser.parse_args()
    # A terminal's Ctrl+C reaches the whole group; the front decides what it means and closes our pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s worker %(levelname)s %(message)s")
    # Libraries print; the pipe to the front must not hear it.
    outgoing = os.fdopen(os.dup(1), "wb", buffering=1024 * 1024)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    reserve = int(arguments.leave_free * 1024**3)
    WorkLoop(sys.stdin.buffer, outgoing, arguments.device, arguments.dtype, reserve).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
