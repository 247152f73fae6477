"""Sizes of images on the command line: all commands read them alike."""

from __future__ import annotations

import click
import pytest

from cli import VERBS

PARAMETERS = {
    str(verb.name): (verb, parameter) for verb in VERBS for parameter in verb.params if parameter.name == "image_size"
}


def read(command: str, text: str) -> object:
    verb, parameter = PARAMETERS[command]
    return parameter.process_value(click.Context(verb), text)


def test_the_commands() -> None:
    assert {"verify", "evaluate", "export", "train"} >= PARAMETERS.keys() >= {"verify", "export", "train"}


@pytest.mark.parametrize("command", PARAMETERS)
def test_every_command_reads_them_alike(command: str) -> None:
    assert [read(command, text) for text in ("512", "40x64", "40X64")] == [(512, 512), (64, 40), (64, 40)]
    for text in ("40x", "x64", "40*64", "0", "040", "1_00", " 64", "40x64x3"):
        with pytest.raises(click.BadParameter, match="is not a side or WIDTHxHEIGHT in pixels"):
            read(command, text)
    for text in ("31", "64x31", "8193"):
        with pytest.raises(click.BadParameter, match="two integers from 32 to 8192"):
            read(command, text)
