"""Sizes of images, as users of all commands write them."""

from __future__ import annotations

import re

import click

from effdet_torch.checks import CHECKS


def parsed_size(text: str, otherwise: str = "") -> tuple[int, int]:
    """Parse SIDE or WIDTHxHEIGHT to (height, width) in pixels.

    Args:
        text: from the command line.
        otherwise: what else would have been possible, for the error.

    Raises:
        BadParameter: It is neither, or no network takes it.
    """
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text, re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a side or WIDTHxHEIGHT in pixels{otherwise}")
    size = int(found[2] or found[1]), int(found[1])
    is_valid, expected = CHECKS["image_size"]
    if not is_valid(size):
        raise click.BadParameter(f"the image size {size} cannot be used; expected {expected}")
    return size


def image_size(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Parse SIDE or WIDTHxHEIGHT to (height, width); the callback of an option that may be left out."""
    return None if text is None else parsed_size(text)
