"""The commands: parse, call one function, print its report."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import click

from effdet_torch import __version__
from effdet_torch.errors import EffdetError

P = ParamSpec("P")
VIEWS = click.Choice(["ema", "raw"])
BIG_BYTES = 100_000_000  # shorter work is over before a bar could be read


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the project's errors into one message on stderr and an exit code: 1 failed, 2 wrong usage."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except EffdetError as error:
            fail(error, kwargs.get("report"))

    return wrapped


def fail(error: EffdetError, report: object) -> NoReturn:
    """Print an error, put it into the report file where one was asked for, and leave."""
    if isinstance(report, Path):
        write_json(report, {"ok": False, "error": str(error), "problems": getattr(error, "problems", [])})
    click.echo(f"Error: {error}", err=True)
    sys.exit(error.exit_code)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a report file completely or not at all."""
    from converter.writers.atomic import replacing

    with replacing(path) as stream:
        stream.write((json.dumps(values, indent=2) + "\n").encode())


SOURCE = click.argument("source", type=click.Path(path_type=Path))
VERSION = click.version_option(__version__, package_name="effdet-convert")


@click.command(
    epilog="""\b
Examples:
  effdet-convert efficientdet-d0/ d0.pth
  effdet-convert efficientdet-d4.tar.gz d4.safetensors --variant d4
  effdet-convert my_training/model.ckpt-780 mine.pth --weights raw
  effdet-convert efficientdet-d7/model.index --dry-run
"""
)
@SOURCE
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--variant", metavar="NAME", help="Check that SOURCE is this variant: d0..d7, d7x, lite0..lite4, lite3x.")
@click.option("--weights", type=VIEWS, help="Which copy: averages (default where stored) or raw values.")
@click.option(
    "--keep-redundant-bias", is_flag=True, help="Keep the biases in front of batch norms: bitwise reversible."
)
@click.option("--hparams", metavar="FILE|KEY=VALUE,...", help="Hyperparameters in the official syntax.")
@click.option("--dry-run", is_flag=True, help="Only account for every variable; needs no data file and no OUT.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the report for machines.")
@VERSION
@reports_errors
def convert(
    source: Path,
    out: Path | None,
    variant: str | None,
    weights: Any,
    keep_redundant_bias: bool,
    hparams: str | None,
    dry_run: bool,
    report: Path | None,
) -> None:
    """Convert the TensorFlow checkpoint SOURCE to the PyTorch file OUT (.pth or .safetensors).

    SOURCE is a folder, a prefix, an .index file or the official .tar.gz. The variant, the class count and the anchors
    are recognised; every variable is accounted for.
    """
    from converter.conversion import convert_checkpoint, prepare, writer_for
    from converter.readers.locate import open_checkpoint
    from converter.report import conversion_report, conversion_text

    if out is None and not dry_run:
        raise click.UsageError("OUT is missing: name the file to write, or use --dry-run")
    if out is not None:
        writer_for(out)
    with open_checkpoint(source) as opened:
        preparation = prepare(opened, variant, weights, hparams, keep_redundant_bias)
        if dry_run or out is None:
            result = conversion_report(preparation, None, None)
        else:
            with progress_bar(out.name) as progress:
                metadata = convert_checkpoint(preparation, out, progress)
            result = conversion_report(preparation, metadata, out)
    if report is not None:
        write_json(report, result)
    click.echo(conversion_text(result))


@click.command(
    epilog="""\b
Examples:
  effdet-inspect efficientdet-d0/
  effdet-inspect my_training/model.ckpt-780.index --tensors
  effdet-inspect efficientdet-d7.tar.gz --json
"""
)
@SOURCE
@click.option("--tensors", is_flag=True, help="List every stored variable: name, dtype, shape.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@VERSION
@reports_errors
def inspect(source: Path, tensors: bool, as_json: bool) -> None:
    """Say what the checkpoint SOURCE is: kind, variant, classes, copies, optimizer, step, parameters."""
    from converter.inspection import inspect_source, tensor_rows
    from converter.readers.locate import open_checkpoint
    from converter.report import inspection_text, tensors_text

    with open_checkpoint(source) as opened:
        facts = inspect_source(opened)
        rows = tensor_rows(opened) if tensors else []
    if as_json:
        click.echo(json.dumps(facts | ({"tensors": rows} if tensors else {}), indent=2))
        return
    click.echo(inspection_text(facts))
    if tensors:
        click.echo(tensors_text(rows))


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show bytes done on stderr, where somebody is watching and the work is long enough to be worth it."""
    if not sys.stderr.isatty():
        yield None
        return
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if total < BIG_BYTES:
            return
        if not bars:
            bars.append(click.progressbar(length=total, label=description, file=sys.stderr))
        bars[0].update(done - bars[0].pos)

    yield show
    for bar in bars:
        bar.render_finish()
