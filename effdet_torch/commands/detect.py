"""`effdet-detect`: parse, call one function, print its report."""

from __future__ import annotations

import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effdet_torch.commands.detect_lines import reported, reported_videos, tell_about, tell_what_is_left_out
from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.engines.names import BACKENDS
from effdet_torch.errors import UsageError
from effdet_torch.terminal.command import Command, refuse_options, standard
from effdet_torch.terminal.files import input_file, itself, json_file, model_file, output_folder, writes

if TYPE_CHECKING:
    from effdet_torch.inference.files.find import Sources
    from effdet_torch.inference.predict import Predictor
    from effdet_torch.outputs.paths import RunFiles

INPUT = click.Path(path_type=Path, readable=False)  # whether it can be read is found where it is read


@click.command(
    cls=Command,
    short_help="Objects in images and videos.",
    epilog="""\b
Examples:
  effdet-detect d0.pth photo.jpg -o drawn/
  effdet-detect d0.pth photos/ 'more/**/*.png' --classes person,cat --json - --quiet
  effdet-detect d0.pth clip.mp4 -o drawn/
  effdet-detect d0.pth val2017/ --json results.json --score 0 --profile official-eval --no-exif
""",
)
@click.argument("model", callback=model_file)
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", "-o", callback=output_folder, metavar="DIR", help="Draw boxes, names and masks here.")
@click.option("--crops", callback=output_folder, metavar="DIR", help="Write what is in every box here.")
@click.option(
    "--json",
    "--results",
    "results",
    callback=json_file,
    metavar="FILE",
    help="Write all detections in COCO's results format, with class names; - is stdout. Rerun to resume.",
)
@click.option(
    "--score",
    "score_threshold",
    type=click.FloatRange(0, 1),
    default=SCORE_THRESHOLD,
    show_default=True,
    help="Minimum score to report; 0 reports all.",
)
@click.option(
    "--classes", metavar="LIST", help="Only these: names or category ids, as in person,cat or '\"bolt, large\",2'."
)
@click.option("--max-detections", type=click.IntRange(1), metavar="N", help="Most per image; default: as the profile.")
@click.option(
    "--iou",
    "iou_threshold",
    type=click.FloatRange(0, 1),
    metavar="MAX",
    help="Overlap above which hard NMS removes boxes; default: as the profile.",
)
@click.option(
    "--profile",
    default="model",
    show_default=True,
    metavar="NAME",
    help="model (its own), serving, serving-hard, official-eval, official-eval-hard, object-detection-api, tflite, "
    "tflite-regular, hard.",
)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images per GPU batch.")
@click.option("--every", type=click.IntRange(1), default=1, metavar="N", help="Only every N-th frame of a video.")
@click.option("--recursive", is_flag=True, help="Also images in folders below those of SOURCES.")
@click.option("--device", metavar="DEV", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="Run MODEL in another runtime: exported for it once, and kept in the cache.",
)
@click.option(
    "--labels",
    "label_map",
    type=INPUT,
    callback=input_file,
    metavar="FILE",
    help="Class names: one per line, .json, .yaml, .pbtxt; default: the model's, or COCO's for 90 classes.",
)
@click.option(
    "--exif/--no-exif", default=True, show_default=True, help="Rotate images and videos as their metadata say."
)
@click.option("--check-values", is_flag=True, help="Compare all values of MODEL with the checksums in the file.")
@standard
@writes(results=itself, out=lambda _: (), crops=lambda _: ())
def detect(
    model: Path,
    sources: tuple[str, ...],
    out: Path | None,
    crops: Path | None,
    results: Path | None,
    batch: int,
    every: int,
    recursive: bool,
    exif: bool,
    files: RunFiles,
    **settings: Any,
) -> None:
    """Detect objects in SOURCES with MODEL, a converted file or one of effdet-export.

    MODEL may be the name of an official model (d0), or hf:user/repository[@revision] on the Hugging Face Hub. SOURCES
    are images, folders of images, patterns, videos, numbers of cameras, and streams (rtsp://...).

    Exit code 0: done; 1: something failed, or a source cannot be read (it is reported and left out); 2: wrong usage, or
    no image at all.
    """
    from effdet_torch.file_format import is_swapped
    from effdet_torch.inference.files.detect_images import detect_images, origin
    from effdet_torch.inference.files.detect_video import VideoRun
    from effdet_torch.inference.files.places import Outputs, planned
    from effdet_torch.inference.partial_results import PartialResults
    from effdet_torch.outputs.atomic import write_json

    if is_swapped(model, Path(sources[0])):
        raise UsageError(f"{sources[0]} looks like a model, and {model} does not; did you swap MODEL and SOURCES?")
    found = found_sources(sources, recursive, results is not None)
    outputs = Outputs(out, crops)
    image_places, video_places = planned(found, outputs)
    drawings = [place.drawing for place in [*image_places, *video_places] if place.drawing is not None]
    files.require_apart(found.files, (("--out", drawing) for drawing in drawings))
    predictor = opened(model, **settings)
    # What an interrupted run has found is kept as boxes.
    kept = PartialResults(
        results if predictor.config.detects else None, partial(origin, model, predictor, outputs, exif)
    )
    images = detect_images(predictor, found.images, image_places, batch, exif, kept, files)
    others = files.resolved([*found.files, *drawings]) if found.videos else ()
    run = partial(VideoRun, predictor, batch_size=batch, every=every, turn=exif, others=others)
    entries, failed = list[dict[str, Any]](), False
    for one in chain(
        reported(images, lambda: len(found.images)),
        reported_videos(run, list(zip(found.videos, video_places, strict=True))),
    ):
        failed |= one.error is not None
        entries += one.entries if results is not None else []
    if results is not None:
        write_json(results, entries, indent=None)
        kept.remove()
    sys.exit(1 if failed else 0)


def found_sources(sources: tuple[str, ...], recursive: bool, has_results: bool) -> Sources:
    """Return what SOURCES stand for; what is missing for them is said before a model is read."""
    from effdet_torch.inference.files.find import find_sources, require_unique_ids

    found = find_sources(sources, recursive)
    tell_what_is_left_out(sources, recursive)
    if found.videos:
        from effdet_torch.inference.files.video import opencv

        opencv()
    else:
        refuse_options(["every"], "is for videos, and there is none")
    if has_results:
        require_unique_ids(found)
    return found


def opened(model: Path, classes: str | None, **settings: Any) -> Predictor:
    """Return the detector of MODEL, and tell what a user has to know of it."""
    from effdet_torch.inference.predict import Predictor
    from effdet_torch.inference.selection import listed_classes

    predictor = Predictor(model, classes=None if classes is None else listed_classes(classes), **settings)
    if not predictor.config.detects:
        refuse_options(["crops"], "has no effect: the model predicts no boxes")
    tell_about(predictor)
    return predictor
