# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: `python -m server`, and `python -m server` with generate, models or download.

Exit status: 0 done, 1 failed, 2 bad arguments, 130 cancelled. Errors are one sentence on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.places import state_dir

from .cli.arguments import BAD_ARGUMENTS, parse

FAILED, CANCELLED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return _COMMANDS[parsed.command](parsed)
    except WireError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return BAD_ARGUMENTS if error.code in (Code.BAD_REQUEST, Code.TOO_LARGE) else FAILED
    except KeyboardInterrupt:
        return CANCELLED


def _say(line: str) -> None:
    print(line, flush=True)


def _serve(parsed: argparse.Namespace) -> int:
    from .cli.models import model_folders
    from .front.app import Options, serve
    from .front.listener import is_loopback

    options = Options(
        state=(parsed.state or state_dir()).absolute(),
        models=tuple(folder.absolute() for folder in model_folders(parsed.models)),
        host=parsed.host,
        port=parsed.port,
        token_file=parsed.token_file,
        device=parsed.device,
        dtype=parsed.dtype,
        leave_free=parsed.leave_free,
        owner=parsed.owner,
        keep=parsed.keep,
        tls_cert=parsed.tls_cert,
        tls_key=parsed.tls_key,
    )

    def announce(address: str) -> None:
        _say(f"listening on {address}")
        if not address.startswith("wss://") and not is_loopback(parsed.host):
            _say("Other machines reach this without encryption, token included; --tls-cert and --tls-key encrypt it.")

    asyncio.run(serve(options, announce))
    return 0


def _generate(parsed: argparse.Namespace) -> int:
    from .cli.generate import generate

    return asyncio.run(generate(parsed, _say))


def _models(parsed: argparse.Namespace) -> int:
    from .cli.models import list_models

    _say(list_models(parsed))
    return 0


def _download(parsed: argparse.Namespace) -> int:
    from .cli.download import download

    download(parsed, _say)
    return 0


_COMMANDS = {"serve": _serve, "generate": _generate, "models": _models, "download": _download}

if __name__ == "__main__":
    sys.exit(main())
