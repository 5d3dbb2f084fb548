#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets up Krita SD with one command: server, plugin, a first picture. `python3 install.py --help` has the rest.

Standard library only. The parts are in server/setup; this file is the command line and the order of the steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PICTURE = ROOT / "first-picture.png"
ARCHIVE = ROOT / "dist" / "krita_sd.zip"
PROMPT = "a red circle on a blue background"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    from server.setup.extras import EXTRAS
    from server.setup.torch_build import KINDS, is_requirement

    parser = argparse.ArgumentParser(
        prog="install.py",
        description="Sets up the Krita SD server and the Krita plugin, then makes a first picture. Safe to run again.",
        epilog="Without options: set everything up. It asks nothing, and --uninstall takes everything back.",
    )
    parser.add_argument(
        "--torch",
        default="auto",
        metavar="BUILD",
        help=f"auto, {', '.join(KINDS)}, or a requirement such as torch==2.13.0 (default: auto)",
    )
    parser.add_argument(
        "--krita-dir",
        type=Path,
        metavar="DIR",
        help="Krita's resource folder (contains pykrita); a kritarc belonging to it is changed only if it exists",
    )
    parser.add_argument(
        "--with",
        dest="extras",
        action="append",
        choices=EXTRAS,
        default=[],
        help="also install " + "; ".join(f"{name} ({what})" for name, what in EXTRAS.items()),
    )
    parser.add_argument(
        "--open", action="store_true", help="afterwards open the first picture in Krita, with the docker"
    )
    job = parser.add_mutually_exclusive_group()
    job.add_argument(
        "--zip", action="store_true", help="only build dist/krita_sd.zip for Import Python Plugin from File"
    )
    job.add_argument("--test", action="store_true", help="set up what the tests need and run all of them")
    job.add_argument("--uninstall", action="store_true", help="remove everything that this program made")
    parser.add_argument(
        "--krita",
        metavar="VERSION",
        help="with --test: only the tests in the real Krita, in this one: 5.1.5, 5.2.9, 5.3.4, 6.0.4, installed, all "
        "(makes those that are not installed, which needs root on Debian)",
    )
    given = parser.parse_args(argv)
    if given.torch not in ("auto", *KINDS) and not is_requirement(given.torch):
        parser.error(f"--torch takes auto, {', '.join(KINDS)} or a requirement that begins with torch")
    if given.krita and not given.test:
        parser.error("--krita goes with --test")
    return given


class Steps:
    """Says which step of how many is running, and what happens within it."""

    def __init__(self, total: int) -> None:
        self.number, self.total = 0, total

    def next(self, title: str) -> None:
        self.number += 1
        print(f"[{self.number}/{self.total}] {title}", flush=True)

    def say(self, text: str) -> None:
        print(f"      {text}", flush=True)


def set_up_server(steps: Steps, torch: str, beside: Sequence[str], extras: str = "") -> Path:
    """Environment, torch and the packages of pyproject.toml, those `beside` too; returns the interpreter. Takes three
    steps."""
    from server.setup import SetupError, torch_build
    from server.setup import extras as optional
    from server.setup.environment import Environment

    environment = Environment(ROOT / ".venv")
    steps.next("Python environment")
    environment.make(steps.say)
    steps.say(f"{environment.python} is ready")

    steps.next("torch, the library that runs the models")
    project = (ROOT / "pyproject.toml").read_bytes()
    stamp = hashlib.sha256(project).hexdigest()[:16]
    machine = torch_build.this_machine()
    note = environment.record()
    # A requirement has to be shown to pip each time; a kind is recognised in what is there.
    present = torch_build.installed(environment, machine)
    if present is None or torch not in ("auto", present.kind):
        environment.refresh_pip(steps.say)
    plan = torch_build.choose(environment, torch, machine, steps.say)
    if plan:
        torch_build.install(environment, plan, steps.say)
    present = torch_build.installed(environment, machine)
    if present is None:
        raise SetupError("pip reported success but torch is not in .venv; run install.py --uninstall and try again.")

    steps.next("the server's packages")
    wanted = {"packages": stamp, "torch": present.version}
    complete = all(note.get(key) == value for key, value in wanted.items()) and extras in ("", note.get("extras"))
    if complete and environment.held("krita-sd"):
        steps.say("all of them are already here")
        optional.bring(environment, beside, steps.say)
        return environment.python
    environment.refresh_pip(steps.say)
    # The constraint keeps pip from exchanging the chosen torch for the newest one.
    constraint = environment.folder / "torch.txt"
    constraint.write_text(f"torch=={present.version}\n", encoding="utf-8")
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    run = environment.pip(["install", "--editable", target, "--constraint", str(constraint)], steps.say)
    if run.code:
        raise SetupError(
            f"pip could not install the server's packages ({run.reason}); check the connection and run this again."
        )
    environment.note(**wanted, extras=extras or note.get("extras", ""))
    optional.bring(environment, beside, steps.say)
    return environment.python


def bring_websockets(steps: Steps) -> None:
    from server.setup import vendor
    from server.setup.environment import Environment

    steps.next("the plugin's websocket library")
    environment = Environment(ROOT / ".venv")
    vendor.bring_websockets(environment, ROOT / "krita_sd", steps.say)


def set_up_plugin(steps: Steps, python: Path, krita_dir: Path | None) -> None:
    """Copy the plugin into every Krita that is there, and note where, for --uninstall."""
    from server.setup.environment import Environment
    from server.setup.krita_places import find_places, given_place
    from server.setup.krita_programs import find_programs
    from server.setup.plugin import install_plugin

    steps.next("the plugin in Krita")
    system, env, home = platform.system(), os.environ, Path.home()
    programs = find_programs(system, env, home)
    if krita_dir:
        places = [given_place(krita_dir, system, env, home)]
    else:
        places = find_places(system, env, home, programs)
        for program in programs:
            steps.say(f"found {program.name}: {program.file}")
    environment = Environment(ROOT / ".venv")
    noted = {entry["resources"]: entry for entry in environment.record().get("plugins", [])}
    for place in places:
        made = install_plugin(ROOT, python, place)
        key = str(place.resources)
        earlier = noted.get(key, {}).get("made", [])
        noted[key] = {
            "name": place.name,
            "resources": key,
            "kritarc": str(place.kritarc) if place.kritarc else None,
            "made": earlier + [name for name in made if name not in earlier],
        }
        environment.note(plugins=list(noted.values()))
        steps.say(f"{place.name}: {place.resources / 'pykrita' / 'krita_sd'}")
        if place.kritarc and place.kritarc.is_file():
            steps.say(f"switched on in {place.kritarc}")
        else:
            steps.say("switch it on in Krita: Settings, Configure Krita, Python Plugin Manager, Krita SD")
    if krita_dir is None and not programs:
        steps.say("Krita itself was not found; get it from krita.org, version 5.2 or newer, and start it once")


def first_picture(steps: Steps, python: Path) -> None:
    """A real job: server, websocket, embedded model."""
    from server.setup import SetupError
    from server.setup.environment import clean_environment

    steps.next("a first picture, with the embedded model")
    steps.say(f'"{PROMPT}" (a few seconds; longer on a busy machine)')
    command = [str(python), "-m", "server", "generate", "--prompt", PROMPT, "--seed", "1", "--out", str(PICTURE)]
    PICTURE.unlink(missing_ok=True)
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    if done.returncode or not PICTURE.exists():
        raise SetupError(
            "The first picture could not be made, for the reason above; everything is installed, "
            f"and {python} -m server shows what the server says."
        )
    told = json.loads(done.stdout)
    steps.say(f"{told['steps_run']} steps, {told['phases']['total'] / 1000:.1f} s in all: {PICTURE}")


def install(given: argparse.Namespace) -> None:
    again = given.open and PICTURE.exists()
    steps = Steps(5 if again else 6)
    python = set_up_server(steps, given.torch, given.extras)
    bring_websockets(steps)
    set_up_plugin(steps, python, given.krita_dir)
    if not again:
        first_picture(steps, python)
    print(
        "\nDone. Now start (or restart) Krita and open or create a picture. The Krita SD docker is on the right,\n"
        "beside the brush presets (or under Settings > Dockers). Type what you want to see and press Generate."
    )
    if given.open:
        open_krita()


def open_krita() -> None:
    """Start Krita on the first picture (without any picture it shows no dockers), and let go of it."""
    from server.setup import SetupError
    from server.setup.krita_places import program_environment
    from server.setup.krita_programs import find_programs

    programs = find_programs(platform.system(), os.environ, Path.home())
    if not programs:
        raise SetupError("Krita was not found on this machine; install it from krita.org, then start it yourself.")
    env = program_environment(os.environ) | {"KRITA_SD_SHOW": "1"}
    subprocess.Popen(
        [*programs[0].command, "--nosplash", str(PICTURE)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    print(f"Krita is starting with {PICTURE.name}.")


def build_zip() -> None:
    from server.setup import plugin
    from server.setup.environment import Environment

    steps = Steps(3)
    steps.next("Python environment")
    environment = Environment(ROOT / ".venv")
    environment.make(steps.say)
    bring_websockets(steps)
    steps.next("the archive")
    plugin.pack(ROOT, ARCHIVE)
    steps.say(f"{ARCHIVE}: in Krita, Tools > Scripts > Import Python Plugin from File")


def uninstall(given: argparse.Namespace) -> None:
    """Remove plugin, kritarc line, environment and whatever else was made; pictures and models stay."""
    from krita_sd.wire.places import state_dir
    from server.setup import kritas, leftovers
    from server.setup.environment import Environment
    from server.setup.krita_places import Place, find_places, given_place
    from server.setup.plugin import remove_plugin

    state = state_dir()
    leftovers.refuse_while_serving(state)
    environment = Environment(ROOT / ".venv")
    system, env, home = platform.system(), os.environ, Path.home()
    places = {place.resources: place for place in find_places(system, env, home)}
    made: dict[Path, list[str]] = {}
    for entry in environment.record().get("plugins", []):
        resources = Path(entry["resources"])
        made[resources] = entry["made"]
        settings = Path(entry["kritarc"]) if entry["kritarc"] else None
        places[resources] = Place(entry["name"], resources, settings)
    if given.krita_dir:
        place = given_place(given.krita_dir, system, env, home)
        places.setdefault(place.resources, place)
    for place in places.values():
        if remove_plugin(place, made.get(place.resources, [])):
            print(f"removed the plugin from {place.resources}")
    leftovers.remove_state(state, print)
    leftovers.remove_from_checkout(ROOT, print)
    leftovers.remove_kritas(kritas.cache_folder(env, home), kritas.KEYS, print)
    print("Krita SD is gone. Your pictures and your models were not touched.")


def test(given: argparse.Namespace) -> int:
    from server.setup import checks, kritas
    from server.setup.extras import EXTRAS

    steps = Steps(6)
    chosen = kritas.targets(given.krita, kritas.installed_krita()) if given.krita else []
    steps.next("Krita and what drives it")
    folders = any(target.key for target in chosen) if given.krita else kritas.can_make()
    checks.bring_programs(steps.say, folders)
    if given.krita:
        chosen = kritas.targets(given.krita, kritas.installed_krita())
    python = set_up_server(steps, given.torch, list(EXTRAS), "test")
    bring_websockets(steps)
    steps.next("the checks")

    def say(text: str) -> None:
        print(text, flush=True)

    return checks.run_kritas(ROOT, python, chosen, say) if given.krita else checks.run_all(ROOT, python, say)


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 (this file is also started by whatever python3 is there)
        found = ".".join(map(str, sys.version_info[:2]))
        print(f"Python 3.10 or newer is needed and this is {found}; run install.py with a newer one.", file=sys.stderr)
        return 1
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    given = arguments()
    from server.setup import SetupError

    try:
        if given.uninstall:
            uninstall(given)
        elif given.zip:
            build_zip()
        elif given.test:
            return test(given)
        else:
            install(given)
    except SetupError as error:
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk, a read-only folder: the system's own sentence with the file's name is the clearest there is.
        print(f"install.py: {error}; make room or permission for that and run this again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninstall.py: stopped; run it again and it goes on where it was.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
