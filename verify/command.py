"""`effdet-verify`: parse, call one function, print its report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from converter.command import opened_source
from effdet_torch.terminal import (
    VERSION,
    Command,
    in_a_folder,
    on_terminal,
    progress_bar,
    refuse_options,
    reports_errors,
    say,
    write,
)

if TYPE_CHECKING:
    from verify.results.verification import Verification

P = ParamSpec("P")
PIPED_WIDTH = 240  # of text that no terminal wraps, so that names of layers stay whole
SOURCES = ("coco", "annotations", "images", "data")
SETTINGS = (
    *("split", "limit", "batch", "workers", "device", "profile", "evaluator", "image_size", "labels"),
    *("score", "shown"),
)
OTHERS = ("reference_results", "results", "compare", "save_csv")
COCO_OPTIONS = (*SOURCES, *(name for name in SETTINGS if name != "image_size"), *OTHERS)


def coco_options(command: Callable[P, None]) -> Callable[P, None]:
    """Add the options of an evaluation on COCO to a command."""
    file, folder = click.Path(path_type=Path, dir_okay=False), click.Path(path_type=Path, file_okay=False)
    for option in (
        click.option(
            "--results",
            type=click.Path(path_type=Path),
            callback=in_a_folder,
            metavar="FILE.json",
            help="Write the detections; rerun the same command to resume. testdev: the submission.",
        ),
        click.option(
            "--save-csv",
            type=click.Path(path_type=Path, dir_okay=False),
            callback=in_a_folder,
            metavar="FILE.csv",
            help="Write a table of the classes, and beside it FILE_images, _confusion and _curves.csv.",
        ),
        click.option("--shown", type=click.IntRange(0), metavar="N", help="Worst images to show; default 8."),
        click.option(
            "--score",
            type=click.FloatRange(0, 1),
            help="Least score in the confusion matrix and the images shown; AP takes all. Default 0.3.",
        ),
        click.option(
            "--compare",
            type=file,
            metavar="OTHER",
            help="Evaluate another converted model on the same images, side by side.",
        ),
        click.option("--reference-results", type=file, metavar="FILE.json", help="COCO results file to compare with."),
        click.option(
            "--profile",
            metavar="NAME",
            help="official-eval (default), model, official-eval-hard, serving, serving-hard or hard.",
        ),
        click.option(
            "--evaluator",
            metavar="auto|pycocotools|hotcoco",
            help="Library that computes AP and AR; default auto: hotcoco, which is faster, where it is installed.",
        ),
        click.option("--device", metavar="DEV", help="cpu, cuda, cuda:1, ...; default cpu."),
        click.option("--workers", type=click.IntRange(0), help="Processes that prepare images; default 2."),
        click.option("--batch", type=click.IntRange(1), help="Images per step; default 8."),
        click.option("--limit", type=click.IntRange(1), help="Use only the N images with the lowest ids."),
        click.option("--labels", type=file, metavar="FILE", help="Names of MODEL's classes: text, JSON, YAML, .pbtxt."),
        click.option("--split", metavar="NAME", help="val2017 (default with --coco), testdev, val, test, ..."),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            metavar="DIR|data.yaml",
            help="Evaluate MODEL on PASCAL VOC, YOLO or Roboflow's COCO.",
        ),
        click.option("--images", type=folder, metavar="DIR", help="Folder of the images of --annotations."),
        click.option("--annotations", type=file, metavar="FILE", help="COCO annotation file: evaluate MODEL on it."),
        click.option("--coco", type=click.Path(path_type=Path), metavar="ROOT", help="COCO's folder: evaluate MODEL."),
    ):
        command = option(command)
    return command


def image_size(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Parse a size as the official code writes it."""
    from converter.hparams.values import image_size as read_image_size

    try:
        return None if text is None else read_image_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a side or WIDTHxHEIGHT in pixels") from error


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  effdet-verify --demo d0
  effdet-verify d0.pth --reference efficientdet-d0/ --report-dir report/
  effdet-verify d0.pth --reference saved_model/ --require graph
  effdet-verify d4.safetensors --reference efficientdet-d4.tar.gz --dtype float64 --image photo.jpg
  effdet-verify d0.pth --coco coco/ --results d0.json
  effdet-verify d0.pth --coco coco/ --limit 50 --reference-results official.json
  effdet-verify d0.pth --coco coco/ --limit 4 --reference efficientdet-d0/
  effdet-verify mine.pth --annotations val.json --images photos/
  effdet-verify mine.pth --data VOC2012/ --labels names.pbtxt --report-dir report/ --save-csv classes.csv
  effdet-verify mine.pth --data VOC2012/ --compare older.pth --report-dir report/
""",
)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--reference", metavar="SOURCE", help="TensorFlow checkpoint of MODEL.")
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
@click.option("--image", type=click.Path(path_type=Path), help="Run on a photograph instead of noise.")
@click.option(
    "--image-size", metavar="SIDE|WxH", callback=image_size, help="Network input; default: MODEL's, at most 512x512."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise.")
@click.option("--dtype", "dtypes", type=click.Choice(["float64", "float32"]), multiple=True, help="Default: both.")
@click.option("--mode", "modes", type=click.Choice(["cumulative", "isolated"]), multiple=True, help="Default: both.")
@click.option("--report-dir", type=click.Path(path_type=Path), help="Write report.html, .json, junit.xml, summary.md.")
@coco_options
@VERSION
@reports_errors
def verify(
    model: Path | None, reference: str | None, demo: str | None, report_dir: Path | None, **options: Any
) -> None:
    """Prove that the converted file MODEL computes what its TensorFlow checkpoint computes, layer by layer.

    With --coco, --annotations or --data: evaluate its detections, and compare them with those of the checkpoint or of a
    results file. The data set is checked before the first image.

    Where TensorFlow's own inference graph belongs to SOURCE (.meta, SavedModel, frozen graph), it runs as well. The
    first line says what the verdict rests on.

    Exit code 0: everything compared agrees within tolerance; 1: something differs, could not be compared, or rests on
    less than --require; 2: wrong usage.
    """
    from rich.console import Console

    from verify.report.csv import write_csv
    from verify.report.write import render_terminal, write_reports

    if any(options[name] is not None for name in SOURCES):
        result = verify_images(model, reference, demo, options, pictures=report_dir is not None)
        if result is None:  # not the first process of several: that one reports
            return
    else:
        result, report_dir = verify_layers(model, reference, demo, report_dir, options)
    written = write_reports(result, report_dir) if report_dir is not None else []
    if options["save_csv"] is not None and result.detection is not None and result.detection.details is not None:
        written += write_csv(options["save_csv"], result.detection.details, result.detection.comparison)
    for path in written:
        say(f"wrote {path}", err=True)
    console = Console(width=None if on_terminal(sys.stdout) else PIPED_WIDTH)
    with console.capture() as captured:
        render_terminal(result, console)
    write(captured.get())
    sys.exit(0 if result.passed else 1)


def verify_layers(
    model: Path | None, reference: str | Path | None, demo: str | None, report_dir: Path | None, options: dict[str, Any]
) -> tuple[Verification, Path | None]:
    """Verify layer by layer; a demo brings its own model, reference and folder of reports."""
    from verify.reference.base import uncollected

    with uncollected():
        from verify.demo import write_demo
        from verify.verification import Settings, verify_model

    refuse_options(COCO_OPTIONS, "needs --coco ROOT, --annotations FILE or --data DIR")
    settings = Settings.from_options(**{key: value for key, value in options.items() if key not in COCO_OPTIONS})
    if demo is not None:
        if model is not None or reference is not None:
            raise click.UsageError("--demo brings its own MODEL and --reference: leave them out")
        report_dir = report_dir or Path(f"effdet-demo-{demo}")
        reference, model = write_demo(demo, report_dir)
    if model is None or reference is None:
        raise click.UsageError("give --reference SOURCE or --coco ROOT with MODEL, or --demo VARIANT alone")
    with opened_source(reference) as source, progress_bar("layers") as progress:
        return verify_model(model, source, settings, progress), report_dir


def verify_images(
    model: Path | None, reference: str | None, demo: str | None, options: dict[str, Any], pictures: bool
) -> Verification | None:
    """Evaluate on a data set, and draw pictures if a report shows them; None in all processes but the first."""
    from effdet_torch.data.dataset import TEST_DEV
    from effdet_torch.data.sources import DataSource
    from verify.detections.distributed import processes
    from verify.detections.run import CocoSettings
    from verify.evaluation import Beside, verify_detections

    refuse_options(
        ("demo", "graph", "image", "seed", "dtypes", "modes"), "cannot be combined with --coco, --annotations or --data"
    )
    if model is None:
        raise click.UsageError("MODEL is missing: pass the converted file to evaluate")
    if options["save_csv"] is not None and options["split"] == TEST_DEV:
        raise click.UsageError("--save-csv has nothing to write for testdev, which has no annotations")
    source = DataSource(**{key: options[key] for key in SOURCES})
    settings = CocoSettings(**{key: options[key] for key in SETTINGS if options[key] is not None})
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
            pictures=pictures,
        )
