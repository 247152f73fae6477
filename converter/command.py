"""`effdet-convert` and `effdet-inspect`: parse, call one function, print its report."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effdet_torch.terminal.bar import progress_bar
from effdet_torch.terminal.command import Command, standard
from effdet_torch.terminal.files import itself, json_file, writes
from effdet_torch.terminal.text import say, write
from effdet_torch.terminal.verbosity import is_quiet

if TYPE_CHECKING:
    from converter.source import VariableSource
    from effdet_torch.outputs.paths import RunFiles

SOURCE = click.argument("source")  # a path, a name or a URL, whose "//" a Path would shorten
VIEWS = click.Choice(["ema", "raw"])
OUT = f"{__name__}.out"
OUT_PATH = click.Path(path_type=Path)
BIG_BYTES = 100_000_000  # smaller files are written before a progress bar could be read


def list_official(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the official files and exit."""
    if wanted:
        from converter.identify.official import official_files
        from converter.report import official_text

        say(*official_text(official_files().values()).split("\n"))
        context.exit()


def named_out(context: click.Context, _: click.Parameter, out: Path | None) -> None:
    """Keep the value of -o for `chosen_out`."""
    context.meta[OUT] = out


def chosen_out(context: click.Context, _: click.Parameter, out: Path | None) -> Path | None:
    """Return OUT, given by its place or by -o."""
    named: Path | None = context.meta.get(OUT)
    if out is not None and named is not None:
        raise click.UsageError(f"OUT is given twice: {out} and -o {named}; give one of them")
    return named if out is None else out


def opened_source(source: str | Path) -> VariableSource:
    """Open a source, with a progress bar while it is downloaded."""
    from converter.locate import open_checkpoint

    with progress_bar("download") as progress:
        return open_checkpoint(source, progress)


@click.command(
    cls=Command,
    short_help="A TensorFlow checkpoint to a PyTorch file, or back.",
    epilog="""\b
Examples:
  effdet-convert efficientdet-d0/ d0.pth
  effdet-convert efficientdet-d4.tar.gz d4.safetensors --variant d4
  effdet-convert my_training/model.ckpt-780 mine.pth --weights raw
  effdet-convert efficientdet-d7/model.index --dry-run
  effdet-convert d0-advprop -o d0.pth
  effdet-convert mine.pth for_effdet.pth --layout effdet
  effdet-convert mine.pth checkpoint/ --to tf1
""",
)
@SOURCE
@click.argument("out", type=OUT_PATH, required=False, callback=chosen_out)
@click.option(
    "-o", type=OUT_PATH, metavar="OUT", is_eager=True, expose_value=False, callback=named_out, help="The same as OUT."
)
@click.option(
    "--variant",
    metavar="NAME",
    help="Check that SOURCE is this variant: d0..d7, d7x, lite0..lite4, lite3x, efficientdet_q0, ...",
)
@click.option("--weights", type=VIEWS, help="Which copy to convert: averages (default if stored) or raw values.")
@click.option(
    "--keep-redundant-bias", is_flag=True, help="Keep the biases in front of batch norms: reversible bit for bit."
)
@click.option(
    "--allow-nonfinite", is_flag=True, help="Convert NaN, infinite values and negative variances instead of refusing."
)
@click.option("--hparams", metavar="FILE|KEY=VALUE,...", help="Hyperparameters in the official syntax.")
@click.option(
    "--to",
    type=click.Choice(["pth", "safetensors", "tf1", "h5"]),
    help="Output format; default: by OUT's suffix. tf1: a TensorFlow checkpoint in the folder OUT; h5: Keras weights.",
)
@click.option(
    "--layout",
    type=click.Choice(["effdet_torch", "effdet"]),
    default="effdet_torch",
    show_default=True,
    help="effdet: the bare state_dict with the biases in front of batch norms, which the tf_efficientdet models of the "
    "effdet package, and LibreYOLO, load strictly.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check every variable but write nothing; needs neither data file nor OUT."
)
@click.option(
    "--report",
    callback=json_file,
    metavar="FILE.json",
    help="Write a machine-readable report; - for stdout.",
)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=list_official, help="List the official names."
)
@standard
@writes(out=itself, report=itself)
def convert(
    source: str,
    out: Path | None,
    variant: str | None,
    weights: Any,
    keep_redundant_bias: bool,
    allow_nonfinite: bool,
    hparams: str | None,
    to: str | None,
    layout: str,
    dry_run: bool,
    report: Path | None,
    files: RunFiles,
) -> None:
    """Convert the TensorFlow checkpoint SOURCE to the PyTorch file OUT (.pth or .safetensors), or back.

    SOURCE is a checkpoint (folder, prefix, .index file, official .tar.gz), a SavedModel, a Keras .h5, a frozen graph,
    the name of an official file (d0, d4-640, d0-advprop, lite0, d0.h5, efficientnet-b0), a URL, or a PyTorch file
    (.pth, .safetensors) of this project or the effdet package. The variant, the class count and the anchors are
    recognised; every variable is accounted for.
    """
    from converter.conversion import converting, prepare
    from converter.inputs import input_files
    from converter.report import HANGING, conversion_report, conversion_text
    from converter.writers.targets import choose_target, require_bare
    from effdet_torch.outputs.atomic import write_json

    files.require_apart(inputs := input_files(source, hparams))
    if out is None and not dry_run:
        raise click.UsageError("OUT is missing: name the file to write, or use --dry-run")
    target, bare = choose_target(out, to), layout == "effdet"
    if bare:
        require_bare(target)
    with opened_source(source) as opened, ExitStack() as stack:
        files.require_apart((*inputs, *opened.files()), (("OUT", file) for file in target.files(out)))
        preparation = prepare(opened, variant, weights, hparams, keep_redundant_bias).for_target(target, bare)
        written = None
        if out is not None and not dry_run:
            progress = stack.enter_context(progress_bar(out.name, least=BIG_BYTES))
            done = converting(preparation, out, progress, target, bare, allow_nonfinite)
            written = stack.enter_context(done)
        result = conversion_report(preparation, written, out, target, bare)
        if report is not None:  # before OUT is moved into place: a run whose report fails leaves nothing behind
            write_json(report, result)
    if not is_quiet():
        say(*conversion_text(result).split("\n"), hanging=HANGING)


@click.command(
    cls=Command,
    short_help="What a checkpoint holds.",
    epilog="""\b
Examples:
  effdet-inspect efficientdet-d0/
  effdet-inspect my_training/model.ckpt-780.index --tensors
  effdet-inspect efficientdet-d7.tar.gz --json
""",
)
@SOURCE
@click.option("--tensors", is_flag=True, help="List every stored variable: name, dtype, shape.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@standard
def inspect(source: str, tensors: bool, as_json: bool) -> None:
    """Describe SOURCE: kind, variant, classes, copies, optimizer, step, parameters.

    SOURCE is anything that effdet-convert accepts: a path, an official name or a URL.
    """
    from converter.inspection import inspect_source, tensor_rows
    from converter.report import HANGING, inspection_text, tensors_text

    with opened_source(source) as opened:
        facts = inspect_source(opened)
        rows = tensor_rows(opened) if tensors else []
    if as_json:
        write(json.dumps(facts | ({"tensors": rows} if tensors else {}), indent=2) + "\n")
        return
    if not is_quiet():
        say(*inspection_text(facts).split("\n"), hanging=HANGING)
    if tensors:
        write(tensors_text(rows) + "\n")
