"""The options of `effdet-verify` and `effdet evaluate`: those of an evaluation, and of what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import click

from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.engines.names import BACKENDS
from effdet_torch.terminal.files import csv_file, input_file, json_file_or_folder, output_folder
from effdet_torch.terminal.sizes import image_size

P = ParamSpec("P")
SOURCES = ("coco", "annotations", "images", "data")
SETTINGS = (
    *("split", "limit", "batch", "workers", "device", "backend", "profile", "evaluator", "image_size", "labels"),
    *("score", "shown"),
)
OTHERS = ("reference_results", "results", "compare", "save_csv")
COCO_OPTIONS = (*SOURCES, *(name for name in SETTINGS if name != "image_size"), *OTHERS)


INPUT = click.Path(path_type=Path, readable=False)  # whether it can be read is found where it is read


# The options of an evaluation, the last one first in the help.
EVALUATION = (
    click.option(
        "--results",
        "--json",
        "results",
        callback=json_file_or_folder,
        metavar="FILE.json",
        help="Write the detections, - for stdout; rerun the same command to resume. testdev: the submission.",
    ),
    click.option(
        "--save-csv",
        callback=csv_file,
        metavar="FILE.csv",
        help="Write a table of the classes, and beside it FILE_images, _confusion and _curves.csv.",
    ),
    click.option("--shown", type=click.IntRange(0), metavar="N", help="Worst images to show; default 8."),
    click.option(
        "--score",
        type=click.FloatRange(0, 1),
        help=f"Least score in the confusion matrix and the images shown; AP takes all. Default {SCORE_THRESHOLD}.",
    ),
    click.option(
        "--compare",
        type=INPUT,
        callback=input_file,
        metavar="OTHER",
        help="Evaluate another converted model on the same images, side by side.",
    ),
    click.option(
        "--reference-results",
        type=INPUT,
        callback=input_file,
        metavar="FILE.json",
        help="COCO results file to compare with.",
    ),
    click.option(
        "--profile",
        metavar="NAME",
        help="official-eval, model, official-eval-hard, serving, serving-hard, object-detection-api, tflite, "
        "tflite-regular or hard; default: that of a file with NMS inside, else official-eval.",
    ),
    click.option(
        "--evaluator",
        metavar="auto|pycocotools|hotcoco",
        help="Library that computes AP and AR; default auto: hotcoco, which is faster, where it is installed.",
    ),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        help="Run MODEL in another runtime: exported for it once, and kept in the cache.",
    ),
    click.option("--device", metavar="DEV", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one."),
    click.option("--workers", type=click.IntRange(0), help="Processes that prepare images; default 2."),
    click.option("--batch", type=click.IntRange(1), help="Images per step; default 8."),
    click.option("--limit", type=click.IntRange(1), help="Use only the N images with the lowest ids."),
    click.option(
        "--labels",
        type=INPUT,
        callback=input_file,
        metavar="FILE",
        help="Names of MODEL's classes (OTHER's, if it has none): text, JSON, YAML, .pbtxt.",
    ),
    click.option("--split", metavar="NAME", help="val2017 (default with --coco), testdev, val, test, ..."),
    click.option(
        "--data",
        type=INPUT,
        metavar="DIR|FILE",
        help="Evaluate MODEL on PASCAL VOC, YOLO, Roboflow's COCO, TFRecords or Open Images.",
    ),
    click.option("--images", type=INPUT, metavar="DIR", help="Folder of the images of --annotations."),
    click.option(
        "--annotations",
        type=INPUT,
        callback=input_file,
        metavar="FILE",
        help="COCO annotation file: evaluate MODEL on it.",
    ),
    click.option("--coco", type=INPUT, metavar="ROOT", help="COCO's folder: evaluate MODEL."),
)


def coco_options(command: Callable[P, None]) -> Callable[P, None]:
    """Add the options of an evaluation to a command."""
    for option in EVALUATION:
        command = option(command)
    return command


SIZE = click.option(
    "--image-size",
    metavar="SIDE|WxH",
    callback=image_size,
    help="Network input; default: MODEL's, but at most 512x512 where layers are compared.",
)
REPORT_DIR = click.option(
    "--report-dir", callback=output_folder, metavar="DIR", help="Write report.html, .json, junit.xml, summary.md."
)


def report_files(folder: Path) -> list[Path]:
    """Return the files of --report-dir."""
    from verify.report.write import REPORTS

    return [folder / name for name in REPORTS]


def csv_files(path: Path) -> list[Path]:
    """Return the files of --save-csv."""
    from verify.report.csv import table_paths

    return table_paths(path)
