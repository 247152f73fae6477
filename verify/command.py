"""`effdet-verify`: parse, call one function, print its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.command import opened_source
from effdet_torch.engines.table import is_exported
from effdet_torch.terminal.bar import progress_bar
from effdet_torch.terminal.command import Command, refuse_options, standard
from effdet_torch.terminal.files import model_file, unless_folder, writes
from effdet_torch.terminal.text import width_of, write
from effdet_torch.terminal.verbosity import is_quiet, tell
from verify.options import (
    COCO_OPTIONS,
    INPUT,
    REPORT_DIR,
    SETTINGS,
    SIZE,
    SOURCES,
    coco_options,
    csv_files,
    report_files,
)

if TYPE_CHECKING:
    from effdet_torch.outputs.paths import RunFiles
    from verify.results.verification import Verification

UNLIMITED = 100_000  # columns, more than any line has: only a terminal needs them wrapped


@click.command(
    cls=Command,
    short_help="Prove that a converted file is the same model.",
    epilog="""\b
Examples:
  effdet-verify --demo d0
  effdet-verify d0.pth --reference efficientdet-d0/ --report-dir report/
  effdet-verify d0.pth --reference saved_model/ --require graph
  effdet-verify d4.safetensors --reference efficientdet-d4.tar.gz --dtype float64 --image photo.jpg
  effdet-verify d0.onnx --reference d0.pth
  effdet-verify d0.pth --coco coco/ --results d0.json
  effdet-verify d0.pth --coco coco/ --limit 50 --reference-results official.json
  effdet-verify d0.pth --coco coco/ --limit 4 --reference efficientdet-d0/
  effdet-verify mine.pth --annotations val.json --images photos/
  effdet-verify mine.pth --data VOC2012/ --labels names.pbtxt --report-dir report/ --save-csv classes.csv
  effdet-verify mine.pth --data VOC2012/ --compare older.pth --report-dir report/
""",
)
@click.argument("model", callback=model_file, required=False)
@click.option("--reference", metavar="SOURCE", help="TensorFlow checkpoint of MODEL, or the .pth of an export.")
@click.option(
    "--demo",
    metavar="VARIANT",
    help="Create, convert and verify a random checkpoint, in effdet-demo-VARIANT/ or --report-dir.",
)
@click.option(
    "--graph/--no-graph",
    default=None,
    help="Insist on running TensorFlow's own graph as well, or skip it; default: if there is one that runs.",
)
@click.option(
    "--require",
    type=click.Choice(["graph", "config"]),
    help="Fail unless the verdict rests on a graph (graph), or on stated settings at least (config).",
)
@click.option("--image", type=INPUT, help="Run on a photograph instead of noise.")
@SIZE
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise.")
@click.option("--dtype", "dtypes", type=click.Choice(["float64", "float32"]), multiple=True, help="Default: both.")
@click.option(
    "--mode",
    "modes",
    type=click.Choice(["cumulative", "isolated", "fused"]),
    multiple=True,
    help="Default: all three; fused is the network that --coco and effdet-detect run.",
)
@click.option("--fused", is_flag=True, default=None, help="The same as --mode fused.")
@REPORT_DIR
@coco_options
@standard
@writes(results=unless_folder, report_dir=report_files, save_csv=csv_files)
def verify(
    model: Path | None,
    reference: str | None,
    demo: str | None,
    report_dir: Path | None,
    files: RunFiles,
    **options: Any,
) -> None:
    """Prove that the converted file MODEL computes what its TensorFlow checkpoint computes, layer by layer.

    Or that an exported file (effdet-export) computes what the checkpoint or the converted file computes. MODEL may be
    the name of an official model (d0), or hf:user/repository[@revision] on the Hugging Face Hub.

    With --coco, --annotations or --data: evaluate its detections, and compare them with those of the checkpoint or of a
    results file. The data set is checked before the first image.

    Where TensorFlow's own inference graph belongs to SOURCE (.meta, SavedModel, frozen graph), it runs as well. The
    first line says what the verdict rests on.

    Exit code 0: everything compared agrees within tolerance; 1: something differs, could not be compared, or rests on
    less than --require; 2: wrong usage.
    """
    from converter.inputs import input_files

    if reference is not None and is_exported(Path(reference)):
        raise click.UsageError(
            f"--reference {reference} is an exported file: pass it as MODEL, and its source as SOURCE"
        )
    files.require_apart(input_files(reference) if reference else ())
    if any(options[name] is not None for name in SOURCES):
        result = verify_images(model, reference, demo, options, report_dir is not None, files)
        if result is None:  # not the first process of several: that one reports
            return
    else:
        result, report_dir = verify_layers(model, reference, demo, report_dir, options)
    show(result, report_dir, options["save_csv"])
    sys.exit(0 if result.passed else 1)


@click.command(
    cls=Command,
    short_help="COCO metrics on a data set.",
    epilog="""\b
Examples:
  effdet evaluate d0.pth --coco coco/ --results d0.json
  effdet evaluate mine.pth --data VOC2012/ --labels names.pbtxt --report-dir report/
  effdet evaluate d0.onnx --annotations val.json --images photos/ --limit 100
""",
)
@click.argument("model", callback=model_file)
@SIZE
@REPORT_DIR
@coco_options
@standard
@writes(results=unless_folder, report_dir=report_files, save_csv=csv_files)
def evaluate(model: Path, report_dir: Path | None, files: RunFiles, **options: Any) -> None:
    """Measure the detections of MODEL on a data set: COCO's 12 numbers, every class, the best threshold of each.

    The same as effdet-verify with --coco, --annotations or --data. The data set is checked before the first image.

    Exit code 0: done; 1: failed, or --reference-results differ; 2: wrong usage.
    """
    if all(options[name] is None for name in SOURCES):
        raise click.UsageError("give the data set: --coco ROOT, --annotations FILE or --data DIR")
    result = verify_images(model, None, None, {"require": None, **options}, report_dir is not None, files)
    if result is not None:  # else another one of several processes reports
        show(result, report_dir, options["save_csv"])
        sys.exit(0 if result.passed else 1)


def show(result: Verification, report_dir: Path | None, table: Path | None) -> None:
    """Print a result and write its reports: first what cannot fail, so that an unwritable file costs nothing."""
    from rich.console import Console

    from verify.report.csv import write_csv
    from verify.report.write import render_terminal, write_reports

    quiet = is_quiet()
    console = Console(width=(None if quiet else width_of(sys.stdout)) or UNLIMITED)
    with console.capture() as captured:
        render_terminal(result, console)
    first, end, others = captured.get().partition("\n")
    reason, reason_end, _ = others.partition("\n")
    write(first + end + (others if not quiet else "" if result.passed else reason + reason_end))
    detection = result.detection
    written = write_reports(result, report_dir) if report_dir is not None else []
    if table is not None and detection is not None and detection.details is not None:
        written += write_csv(table, detection.details, detection.comparison)
    for path in written:
        tell(f"wrote {path}", err=True)


def verify_layers(
    model: Path | None, reference: str | Path | None, demo: str | None, report_dir: Path | None, options: dict[str, Any]
) -> tuple[Verification, Path | None]:
    """Verify layer by layer; a demo brings its own model, reference and folder of reports."""
    from effdet_torch.config import get_config
    from verify.reference.base import uncollected

    with uncollected():
        from verify.demo import write_demo
        from verify.exported import verify_exported
        from verify.verification import Settings, verify_model

    refuse_options(COCO_OPTIONS, "needs --coco ROOT, --annotations FILE or --data DIR")
    settings = Settings.from_options(**{key: value for key, value in options.items() if key not in COCO_OPTIONS})
    if demo is not None:
        if model is not None or reference is not None:
            raise click.UsageError("--demo brings its own MODEL and --reference: leave them out")
        report_dir = report_dir or Path(f"effdet-demo-{get_config(demo).name}")
        reference, model = write_demo(demo, report_dir)
    if model is None or reference is None:
        raise click.UsageError(
            "give MODEL with --reference SOURCE to verify it, or with --coco, --annotations or --data to evaluate it; "
            "or --demo VARIANT alone"
        )
    if is_exported(model):
        refuse_options(("graph", "dtypes", "modes", "fused"), f"does not apply to an exported file, which {model} is")
        with progress_bar("layers") as progress:
            return verify_exported(model, reference, settings, progress), report_dir
    with opened_source(reference) as source, progress_bar("layers") as progress:
        return verify_model(model, source, settings, progress), report_dir


def verify_images(
    model: Path | None,
    reference: str | None,
    demo: str | None,
    options: dict[str, Any],
    pictures: bool,
    files: RunFiles,
) -> Verification | None:
    """Evaluate on a data set, and draw pictures if a report shows them; None in all processes but the first."""
    from effdet_torch.data.dataset import TEST_DEV
    from effdet_torch.data.sources import DataSource
    from effdet_torch.file_format import is_swapped
    from effdet_torch.processes import processes
    from verify.detections.run import CocoSettings
    from verify.evaluation import Beside, verify_detections

    refuse_options(
        ("demo", "graph", "image", "seed", "dtypes", "modes", "fused"),
        "cannot be combined with --coco, --annotations or --data",
    )
    if model is None:
        raise click.UsageError("MODEL is missing: pass the converted file to evaluate")
    for name in SOURCES:
        if options[name] is not None and is_swapped(model, options[name]):
            raise click.UsageError(f"--{name} {options[name]} looks like a model; did you swap it with MODEL?")
    if options["split"] == TEST_DEV:
        refuse_options(("save_csv", "score", "shown", "compare"), "needs annotations, and testdev has none")
    source = DataSource(**{key: options[key] for key in SOURCES})
    settings = CocoSettings(**{key: options[key] for key in SETTINGS if options[key] is not None}, pictures=pictures)
    beside = Beside(options["reference_results"], reference, options["compare"])
    with processes() as group, progress_bar("images", rate=True) as progress:
        return verify_detections(
            model,
            source,
            settings,
            beside,
            out=options["results"],
            processes=group,
            progress=progress if group.rank == 0 else None,
            require=options["require"],
            files=files,
        )
