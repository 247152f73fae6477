"""`effdet doctor`: what is installed, what is missing for what, and which devices there are."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import click

from effdet_torch import __version__
from effdet_torch.errors import install_command
from effdet_torch.terminal.command import Command, standard
from effdet_torch.terminal.text import say

PROJECT = "effdet-convert"
LABEL = 14  # columns of the first word of a line
# What each extra is for, in the order of the lines.
EXTRAS: Mapping[str, str] = {
    "tf": "effdet-verify --reference and --demo",
    "fast-eval": "AP and AR in less time",
    "onnx": "effdet-export to .onnx, and running it",
    "openvino": "effdet-export to .xml, and running it",
    "executorch": "effdet-export to .pte, and running it",
    "litert": "effdet-export to .tflite, and running it",
    "tensorboard": "effdet-train --tensorboard",
    "huggingface": "models on the Hugging Face Hub",
    "video": "effdet-detect on videos, cameras and streams",
}
# Packages that cannot be used together in every order: (packages, what happens, what to do).
CLASHES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("tensorflow", "triton"),
        "a program that imports tensorflow before triton (or torchvision or timm, which import it) crashes silently",
        "in programs of your own, import them in the other order; the commands do",
    ),
)


class Package(NamedTuple):
    """A package that is needed: its name, the version that is installed ("" if none), and whether that one fits."""

    name: str
    found: str
    expected: str
    fits: bool

    def __str__(self) -> str:
        if self.fits:
            return f"{self.name} {self.found}"
        return f"{self.name} {self.found or 'missing'} (expected {self.expected or 'any version'})"


@click.command(
    cls=Command,
    short_help="What is installed, and what is missing.",
    epilog="""\b
Examples:
  effdet doctor
  effdet doctor --help
""",
)
@standard
def doctor() -> None:
    """Say what is installed here, what is missing for what, and which devices can run a network.

    Exit code 0: all that is needed fits; 1: a package that every command needs is missing, or one that is installed has
    another version.
    """
    packages = required_packages()
    say(_line("effdet-convert", f"{__version__}, Python {platform.python_version()}, {_machine()}"), hanging=LABEL)
    wrong = [package for package in packages.get("", ()) if not package.fits]
    all_fit = f"{len(packages.get('', ()))} packages fit: {', '.join(map(str, packages.get('', ())))}"
    say(_line("every command", ", ".join(map(str, wrong)) or all_fit), hanging=LABEL)
    for extra, purpose in EXTRAS.items():
        needed = packages.get(extra, ())
        wrong += [package for package in needed if package.found and not package.fits]
        missing = "" if all(package.fits for package in needed) else f"; {install_command(extra)}"
        say(_line(f"[{extra}]", f"{', '.join(map(str, needed))}: {purpose}{missing}"), hanging=LABEL)
    say(_line("devices", ", ".join(_devices())), hanging=LABEL)
    for names, what, next_step in CLASHES:
        if all(_installed(name) for name in names):
            say(_line("clash", f"{' and '.join(names)} are installed: {what}; {next_step}"), hanging=LABEL)
    if wrong:
        say(f"Error: these do not fit: {', '.join(map(str, wrong))}; install the project again", err=True)
        sys.exit(1)


def required_packages() -> dict[str, list[Package]]:
    """Return {extra, "" for what every command needs: its packages}, as the project's own metadata list them."""
    from importlib.metadata import requires  # late: it takes a third of the time of --help

    from packaging.requirements import Requirement

    found: dict[str, list[Package]] = {}
    for text in requires(PROJECT) or ():
        needed = Requirement(text)
        if needed.name == PROJECT:  # an extra that includes another one
            continue
        extra = next((name for name in EXTRAS if needed.marker and needed.marker.evaluate({"extra": name})), None)
        if needed.marker is None:
            extra = ""
        if extra is not None:
            installed = _installed(needed.name)
            fits = bool(installed) and needed.specifier.contains(installed, prereleases=True)
            found.setdefault(extra, []).append(Package(needed.name, installed, str(needed.specifier), fits))
    return found


def _installed(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL}}  {text}"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def _devices() -> Iterator[str]:
    """Yield what can run a network; loading torch takes a second."""
    import torch

    yield f"cpu ({torch.get_num_threads()} threads)"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"cuda:{number} ({properties.name}, {properties.total_memory / 2**30:.0f} GB)"
