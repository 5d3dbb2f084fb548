# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of `python -m server`: stable, because other programs rely on them."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from krita_sd.geometry import Extent
from krita_sd.wire.limits import (
    MAX_CONTROL_WEIGHT,
    MAX_COUNT,
    MAX_GUIDANCE,
    MAX_LORA_WEIGHT,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
)
from krita_sd.wire.places import state_dir
from krita_sd.wire.recipe import CONTROL_MAPS, CONTROLS, SAMPLERS
from krita_sd.wire.version import VERSION
from server.library.offers import OFFERS

DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICES = ("auto", "cuda", "xpu", "mps", "cpu")
BAD_ARGUMENTS = 2

Check = Callable[[argparse.ArgumentParser, argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence on stderr, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        text = message[:1].upper() + message[1:]
        sys.stderr.write(f"{text.rstrip('.')}. See {self.prog} --help.\n")
        sys.exit(BAD_ARGUMENTS)


def parse(arguments: list[str]) -> argparse.Namespace:
    """`command` is "serve", "generate", "models" or "download"."""
    if arguments and arguments[0] in _COMMANDS:
        name, rest = arguments[0], arguments[1:]
    elif arguments and not arguments[0].startswith("-"):
        Parser(prog="python -m server").error(
            f"there is no command {arguments[0]!r}; there are " + ", ".join(_COMMANDS)
        )
    else:
        name, rest = "serve", arguments
    parser, check = _COMMANDS[name]()
    parsed = parser.parse_args(rest)
    parsed.command = name
    check(parser, parsed)
    return parsed


def _serve() -> tuple[Parser, Check]:
    parser = Parser(
        prog="python -m server",
        description="Serve diffusion models to Krita. Other commands: generate, models, download.",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=_integer(0, 65535), default=0, help="port to listen on; 0 finds a free one")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="encrypt with this certificate (wss)")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key, if in a file of its own")
    parser.add_argument("--token-file", type=Path, help="file of the token (default: in the state folder)")
    parser.add_argument("--state", type=Path, default=None, help=f"state folder (default: {state_dir()})")
    parser.add_argument("--owner", type=_integer(1, 2**31), help="leave after the process with this number is gone")
    parser.add_argument("--keep", action="store_true", help="stay when the owner is gone")
    _add_machine(parser)
    return parser, _check_serve


def _models() -> tuple[Parser, Check]:
    parser = Parser(prog="python -m server models", description="List the models that are found.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--models", type=Path, action="append", metavar="DIR", help="folder of models (repeatable)")
    return parser, _check_folders


def _download() -> tuple[Parser, Check]:
    parser = Parser(
        prog="python -m server download",
        description="Fetch a model from the Hugging Face hub; without an id, list them.",
    )
    parser.add_argument("id", nargs="?", choices=[offer.id for offer in OFFERS], metavar="ID", help="which one")
    parser.add_argument("--models", type=Path, action="append", metavar="DIR", help="folder that it goes to")
    return parser, _check_folders


def _generate() -> tuple[Parser, Check]:
    parser = Parser(prog="python -m server generate", description="Make pictures without Krita.")
    parser.add_argument("--out", type=Path, required=True, metavar="F.png", help="where the picture goes")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--negative", default="")
    parser.add_argument("--model", default="", help="id or name from `models` (default: the embedded model)")
    parser.add_argument("--width", type=_integer(1, MAX_SIDE))
    parser.add_argument("--height", type=_integer(1, MAX_SIDE))
    parser.add_argument("--steps", type=_integer(1, MAX_STEPS))
    parser.add_argument("--guidance", type=_number(0.0, MAX_GUIDANCE))
    parser.add_argument("--sampler", choices=SAMPLERS)
    parser.add_argument("--seed", type=_integer(0, MAX_SEED), help="default: random")
    parser.add_argument("--count", type=_integer(1, MAX_COUNT), default=1, help="pictures F-1.png .. F-N.png")
    parser.add_argument("--image", type=Path, help="picture to start from")
    parser.add_argument("--strength", type=_number(0.0, 1.0), help="how much may change (default 0.6; with a mask 1)")
    parser.add_argument("--mask", type=Path, help="white = may change; needs --image")
    parser.add_argument("--lora", type=_lora, action="append", metavar="NAME:W", help="LoRA by name (repeatable)")
    parser.add_argument(
        "--control", type=_control, action="append", metavar="TYPE:FILE:W", help="control picture (repeatable)"
    )
    parser.add_argument("--vae", default="", help="id or name of another VAE")
    parser.add_argument("--clip-skip", type=_integer(1, 12), help="2 leaves out the text encoder's last layer")
    parser.add_argument("--tile", choices=("x", "y", "xy"), default="", help="make the edges meet, for textures")
    parser.add_argument(
        "--variation", type=_variation, default=(0.0, 0), metavar="SHARE:SEED", help="vary the noise of --seed a little"
    )
    parser.add_argument(
        "--upscale", type=_size, metavar="2x|WxH", help="enlarge --image, and refine it by --strength (default 0.3)"
    )
    parser.add_argument("--upscaler", default="", help="id or name of an upscaler (default: plain resampling)")
    parser.add_argument("--map", choices=CONTROL_MAPS, default="", help="make this control map of --image")
    parser.add_argument("--previews", type=Path, metavar="DIR", help="write a preview after every step")
    parser.add_argument("--json", action="store_true", help="one line about the run")
    parser.add_argument("--server", metavar="ws://...", help="use this server instead of an own one")
    parser.add_argument("--token-file", type=Path, help="token of that server")
    _add_machine(parser)
    return parser, _check_generate


def _add_machine(parser: Parser) -> None:
    parser.add_argument("--models", type=Path, action="append", metavar="DIR", help="folder of models (repeatable)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="precision (default: measured)")
    parser.add_argument(
        "--leave-free", type=_number(0.0, 1024.0), default=0.0, metavar="GB", help="memory of the device left to others"
    )


def machine_arguments(parsed: argparse.Namespace) -> list[str]:
    """What `_add_machine` read, for the command line of another server."""
    return ["--device", parsed.device, "--dtype", parsed.dtype, "--leave-free", str(parsed.leave_free)]


_COMMANDS = {"serve": _serve, "generate": _generate, "models": _models, "download": _download}


def _check_folders(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    for folder in parsed.models or ():
        if not folder.is_dir():
            parser.error(f"the models folder {folder} does not exist")


def _check_serve(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    _check_folders(parser, parsed)
    if parsed.tls_key and not parsed.tls_cert:
        parser.error("--tls-key needs --tls-cert")


def _check_generate(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    _check_folders(parser, parsed)
    if parsed.out.suffix.lower() != ".png":
        parser.error("--out must name a .png file")
    if not parsed.out.absolute().parent.is_dir():
        parser.error(f"the folder {parsed.out.absolute().parent} does not exist")
    if parsed.out.is_dir():
        parser.error(f"{parsed.out} is a folder")
    for name in ("upscale", "map"):
        if getattr(parsed, name) and parsed.image is None:
            parser.error(f"--{name} needs --image")
    if sum(bool(value) for value in (parsed.mask, parsed.upscale, parsed.map)) > 1:
        parser.error("only one of --mask, --upscale and --map can be used")
    if parsed.upscale and (parsed.width or parsed.height):
        parser.error("--upscale says the size; leave out --width and --height")
    for name in ("mask", "strength"):
        if getattr(parsed, name) is not None and parsed.image is None:
            parser.error(f"--{name} needs --image")
    if parsed.token_file is not None and parsed.server is None:
        parser.error("--token-file needs --server")
    if parsed.token_file is not None and not parsed.token_file.is_file():
        parser.error(f"the token file {parsed.token_file} does not exist")


def _lora(text: str) -> tuple[str, float]:
    """NAME or NAME:W."""
    name, weight = _weighted(text, MAX_LORA_WEIGHT, -MAX_LORA_WEIGHT)
    if not name:
        raise argparse.ArgumentTypeError(f"must be NAME:W, not {text!r}")
    return name, weight


def _control(text: str) -> tuple[str, Path, float]:
    """TYPE:FILE or TYPE:FILE:W; the file's name may hold colons."""
    kind, _, rest = text.partition(":")
    file, weight = _weighted(rest, MAX_CONTROL_WEIGHT)
    if kind not in CONTROLS or not file:
        raise argparse.ArgumentTypeError(f"must be TYPE:FILE:W with a type of {', '.join(CONTROLS)}, not {text!r}")
    return kind, Path(file), weight


def _variation(text: str) -> tuple[float, int]:
    """SHARE:SEED, or SHARE with a seed of its own."""
    share, _, seed = text.partition(":")
    return _number(0.0, 1.0)(share), _integer(0, MAX_SEED)(seed) if seed else secrets.randbelow(MAX_SEED + 1)


def _size(text: str) -> tuple[float, Extent | None]:
    """2x, 1.5x or 3000x2000: (factor, None) or (0, extent)."""
    if match := re.fullmatch(r"(\d{1,2}(?:\.\d{1,3})?)x|x(\d{1,2}(?:\.\d{1,3})?)", text.lower()):
        factor = float(match[1] or match[2])
        if 1.0 <= factor <= 16.0:
            return factor, None
    elif match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.lower()):
        width, height = int(match[1]), int(match[2])
        if 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE:
            return 0.0, Extent(width, height)
    raise argparse.ArgumentTypeError(f"must be a factor like 2x or a size like 3000x2000, not {text!r}")


def _weighted(text: str, high: float, low: float = 0.0) -> tuple[str, float]:
    """What stands before a last colon with a number behind it, and that number; 1 without."""
    name, _, last = text.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        return text, 1.0
    if not name or not low <= weight <= high:
        raise argparse.ArgumentTypeError(f"the weight in {text!r} must be from {low:g} to {high:g}")
    return name, weight


def _integer(low: int, high: int):  # type: ignore[no-untyped-def]
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
        return value

    return read


def _number(low: float, high: float):  # type: ignore[no-untyped-def]
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}, not {text!r}")
        return value

    return read
