# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m server download`: what can be fetched from the hub; with an id, fetch it into the models folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from server.library.download import Download
from server.library.download_plan import ask
from server.library.hub_http import Hub
from server.library.offers import OFFERS

from .models import model_folders

TELL_SECONDS = 2.0


def download(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """List the offers, or fetch the one that is named, going on where an earlier try ended. Raises WireError."""
    if not arguments.id:
        for offer in OFFERS:
            say(f"{offer.id}  {offer.title} ({offer.licence}{', wants an account' if offer.account else ''})")
        return
    offer = next(offer for offer in OFFERS if offer.id == arguments.id)
    with Hub() as hub:
        plan = ask(offer, hub)
        say(f"{offer.title}: {_mega(plan.size)} from {hub.endpoint}/{offer.repo}")
        told = time.monotonic()

        def report(done: int, is_checking: bool) -> None:
            nonlocal told
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                say("comparing with the checksum" if is_checking else f"{_mega(done)} of {_mega(plan.size)}")

        say(f"done: {Download(plan, model_folders(arguments.models)[0], offer.id, report).run(hub)}")


def _mega(size: int) -> str:
    return f"{size / 10**6:.0f} MB"
