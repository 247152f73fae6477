"""`effdet-detect`: parse, call one function, print its report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.engines.names import BACKENDS
from effdet_torch.errors import UsageError, listed
from effdet_torch.progress.bar import progress_bar
from effdet_torch.progress.verbosity import tell, verbosity
from effdet_torch.terminal import (
    VERSION,
    Command,
    input_file,
    itself,
    json_file,
    model_file,
    on_terminal,
    output_folder,
    reports_errors,
    say,
    write_json,
    writes,
)

if TYPE_CHECKING:
    from effdet_torch.inference.detections import FileDetections
    from effdet_torch.outputs import RunFiles

INPUT = click.Path(path_type=Path, readable=False)  # whether it can be read is found where it is read
MANY_IMAGES = 10  # fewer are done before anybody has read a bar


@click.command(
    cls=Command,
    short_help="Objects in images.",
    epilog="""\b
Examples:
  effdet-detect d0.pth photo.jpg -o drawn/
  effdet-detect d0.pth photos/ 'more/**/*.png' --out drawn/ --score 0.5
  effdet-detect d0.pth val2017/ --json results.json --score 0 --profile official-eval --no-exif
""",
)
@click.argument("model", callback=model_file)
@click.argument("images", nargs=-1, required=True)
@click.option("--out", "-o", callback=output_folder, metavar="DIR", help="Draw boxes, names and masks here.")
@click.option(
    "--json",
    "results",
    callback=json_file,
    metavar="FILE",
    help="Write all detections in COCO's results format: bbox is xmin, ymin, width, height in pixels; - for stdout. "
    "Rerun the same command to resume.",
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    default=SCORE_THRESHOLD,
    show_default=True,
    help="Minimum score to report; 0 reports all.",
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
@click.option("--device", metavar="DEV", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="Run MODEL in another runtime: exported for it once, and kept in the cache.",
)
@click.option(
    "--labels",
    type=INPUT,
    callback=input_file,
    metavar="FILE",
    help="Class names: one per line, .json, .yaml, .pbtxt; default: the model's, or COCO's for 90 classes.",
)
@click.option("--exif/--no-exif", default=True, show_default=True, help="Rotate images according to EXIF.")
@click.option("--check-values", is_flag=True, help="Compare all values of MODEL with the checksums in the file.")
@verbosity
@VERSION
@reports_errors
@writes(results=itself, out=lambda _: ())
def detect(
    model: Path,
    images: tuple[str, ...],
    out: Path | None,
    results: Path | None,
    score: float,
    profile: str,
    batch: int,
    device: str | None,
    backend: str | None,
    labels: Path | None,
    exif: bool,
    check_values: bool,
    files: RunFiles,
) -> None:
    """Detect objects in IMAGES with MODEL, a converted file or one of effdet-export.

    MODEL may be the name of an official model (d0), or hf:user/repository[@revision] on the Hugging Face Hub.
    IMAGES are files, folders and patterns.

    Exit code 0: done; 1: something failed, or an image cannot be read (it is reported and left out); 2: wrong usage, or
    no image at all.
    """
    from effdet_torch.file_format import assumptions_briefly, is_swapped, untrained
    from effdet_torch.inference.detect_files import (
        detect_files,
        drawing_paths,
        find_images,
        left_out,
        origin,
        require_unique_ids,
    )
    from effdet_torch.inference.partial_results import PartialResults
    from effdet_torch.inference.predict import Predictor

    if is_swapped(model, Path(images[0])):
        raise UsageError(f"{images[0]} is called as a model is, and {model} is not; did you swap MODEL and IMAGES?")
    paths = find_images(images)
    if others := left_out(images):
        counts = listed(f"{suffix or 'none'} {count}" for suffix, count in others.most_common())
        tell(f"left out: files in folders whose suffix is not that of an image ({counts})", err=True)
    if results is not None:
        require_unique_ids(paths)
    drawings = [] if out is None else drawing_paths(paths, out)
    files.require_apart(paths, (("--out", drawing) for drawing in drawings))
    predictor = Predictor(
        model,
        profile=profile,
        device=device,
        score_threshold=score,
        backend=backend,
        label_map=labels,
        check_values=check_values,
    )
    if text := untrained(predictor.engine.metadata):
        say(f"Warning: {text}", err=True)
    if assumed := assumptions_briefly(predictor.engine.metadata):
        tell(f"assumed: {assumed}", err=True)
    # What an interrupted run has found is kept as boxes.
    kept = PartialResults(results if predictor.config.detects else None, partial(origin, model, predictor, out, exif))
    if kept.done:
        tell(f"resuming an interrupted run; images that it has done: {len(kept.done)}", err=True)
    found = list(reported(detect_files(predictor, paths, out, batch, exif, kept, files), len(paths)))
    if results is not None:
        write_json(results, [entry for file in found for entry in file.entries], indent=None)
        kept.remove()
    sys.exit(1 if any(file.error for file in found) else 0)


def reported(files: Iterable[FileDetections], total: int) -> Iterator[FileDetections]:
    """Print every result as it comes, and pass it on."""
    # On a terminal the lines themselves show the progress.
    with progress_bar("images", sys.maxsize if on_terminal(sys.stdout) else MANY_IMAGES) as progress:
        for done, file in enumerate(files, 1):
            if file.error is None:
                tell(file.summary)
            else:
                say(f"Error: {file.summary}", err=True)
            if progress is not None:
                progress(done, total)
            yield file
