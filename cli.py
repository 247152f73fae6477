"""The commands: parse, call one function, print its report."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import click
from click.core import ParameterSource

from effdet_torch import __version__
from effdet_torch.errors import EffdetError

if TYPE_CHECKING:
    from converter.source import VariableSource
    from effdet_torch.inference.detect_files import FileDetections
    from verify.results import Verification

P = ParamSpec("P")
VIEWS = click.Choice(["ema", "raw"])
BIG_BYTES = 100_000_000  # shorter work is over before a bar could be read
MANY_IMAGES = 10


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
    click.echo(f"Error: {error}", err=True)
    if isinstance(report, Path):
        try:
            write_json(report, {"ok": False, "error": str(error), "problems": getattr(error, "problems", [])})
        except EffdetError as second:
            click.echo(f"Error: {second}", err=True)
    sys.exit(error.exit_code)


def in_a_folder(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file in a folder that does not exist before the work begins, not after it."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist; create it first")
    return path


def list_official(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the official files and leave."""
    if wanted:
        from converter.identify.official import official_files
        from converter.report import official_text

        click.echo(official_text(official_files().values()))
        context.exit()


def refuse_overwriting(report: Path | None, out: Path | None, sources: Iterable[Path]) -> None:
    """Refuse a report in the place of what it reports on."""
    others = [path.resolve() for path in (*sources, *([out] if out is not None else ()))]
    if report is not None and any(path in (report.resolve(), *report.resolve().parents) for path in others):
        raise click.UsageError(f"--report {report} would overwrite SOURCE or OUT; name another file")


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]], indent: int | None = 2) -> None:
    """Write a report file completely or not at all."""
    from effdet_torch.atomic import replacing

    with replacing(path) as stream:
        stream.write((json.dumps(values, indent=indent) + "\n").encode())


SOURCE = click.argument("source")  # a path, a name or a URL; Path would make one slash of two
VERSION = click.version_option(__version__, package_name="effdet-convert")


@click.command(
    epilog="""\b
Examples:
  effdet-convert efficientdet-d0/ d0.pth
  effdet-convert efficientdet-d4.tar.gz d4.safetensors --variant d4
  effdet-convert my_training/model.ckpt-780 mine.pth --weights raw
  effdet-convert efficientdet-d7/model.index --dry-run
  effdet-convert d0-advprop d0.pth
  effdet-convert mine.pth for_effdet.pth --layout effdet
  effdet-convert mine.pth checkpoint/ --to tf1
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
@click.option(
    "--to",
    type=click.Choice(["pth", "safetensors", "tf1", "h5"]),
    help="What to write; default: by OUT's suffix. tf1: a TensorFlow checkpoint in the folder OUT; h5: Keras weights.",
)
@click.option(
    "--layout",
    type=click.Choice(["effdet_torch", "effdet"]),
    default="effdet_torch",
    show_default=True,
    help="effdet: the bare state_dict, as the effdet package publishes it.",
)
@click.option("--dry-run", is_flag=True, help="Only account for every variable; needs no data file and no OUT.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=in_a_folder,
    metavar="FILE.json",
    help="Write the report for machines.",
)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=list_official, help="List the official names."
)
@VERSION
@reports_errors
def convert(
    source: str,
    out: Path | None,
    variant: str | None,
    weights: Any,
    keep_redundant_bias: bool,
    hparams: str | None,
    to: str | None,
    layout: str,
    dry_run: bool,
    report: Path | None,
) -> None:
    """Convert the TensorFlow checkpoint SOURCE to the PyTorch file OUT (.pth or .safetensors), or back.

    SOURCE is a checkpoint (folder, prefix, .index file, official .tar.gz), a SavedModel, a Keras .h5, a frozen graph,
    the name of an official file (d0, d4-640, d0-advprop, lite0, d0.h5), a URL, or a PyTorch file (.pth, .safetensors)
    of this project or the effdet package. The variant, the class count and the anchors are recognised; every variable
    is accounted for.
    """
    from converter.conversion import convert_checkpoint, prepare, require_target
    from converter.report import conversion_report, conversion_text
    from converter.writers.targets import TARGETS, choose_target

    if out is None and not dry_run:
        raise click.UsageError("OUT is missing: name the file to write, or use --dry-run")
    target = choose_target(out, to) if out is not None else TARGETS[to or "pth"]
    if layout == "effdet" and target.is_tensorflow:
        raise click.UsageError(f"--layout effdet is a layout of PyTorch files; it does not go with --to {target.name}")
    with opened_source(source) as opened:
        keep_redundant_bias |= target.is_tensorflow
        refuse_overwriting(report, out, opened.files())
        preparation = prepare(opened, variant, weights, hparams, keep_redundant_bias)
        require_target(preparation, target)
        metadata, bare = None, layout == "effdet"
        if out is not None and not dry_run:
            with progress_bar(out.name, least=BIG_BYTES) as progress:
                metadata = convert_checkpoint(preparation, out, progress, target, bare)
        result = conversion_report(preparation, metadata, out, target, bare)
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
def inspect(source: str, tensors: bool, as_json: bool) -> None:
    """Say what SOURCE is: kind, variant, classes, copies, optimizer, step, parameters.

    SOURCE is all that effdet-convert takes: a path, an official name or a URL.
    """
    from converter.inspection import inspect_source, tensor_rows
    from converter.report import inspection_text, tensors_text

    with opened_source(source) as opened:
        facts = inspect_source(opened)
        rows = tensor_rows(opened) if tensors else []
    if as_json:
        click.echo(json.dumps(facts | ({"tensors": rows} if tensors else {}), indent=2))
        return
    click.echo(inspection_text(facts))
    if tensors:
        click.echo(tensors_text(rows))


COCO_OPTIONS = ("coco", "split", "limit", "batch", "workers", "device", "profile", "reference_results", "results")


def coco_options(command: Callable[P, None]) -> Callable[P, None]:
    """Add the options of an evaluation on COCO to a command."""
    file = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option(
            "--results",
            type=click.Path(path_type=Path),
            callback=in_a_folder,
            metavar="FILE.json",
            help="Write the detections; the same command goes on after an interruption. testdev: the submission.",
        ),
        click.option("--reference-results", type=file, metavar="FILE.json", help="Detections to compare with."),
        click.option("--profile", metavar="NAME", help="How detections are made; default official-eval."),
        click.option("--device", metavar="DEV", help="cpu, cuda, cuda:1, ...; default cpu."),
        click.option("--workers", type=click.IntRange(0), help="Processes that prepare images; default 2."),
        click.option("--batch", type=click.IntRange(1), help="Images per step; default 8."),
        click.option("--limit", type=click.IntRange(1), help="Only the images of the lowest ids."),
        click.option("--split", metavar="val2017|testdev", help="Default val2017."),
        click.option("--coco", type=click.Path(path_type=Path), metavar="ROOT", help="COCO's folder: evaluate MODEL."),
    ):
        command = option(command)
    return command


def image_size(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Parse a size as the official code writes it."""
    from converter.identify.hparams import read_image_size

    try:
        return None if text is None else read_image_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a side or WIDTHxHEIGHT in pixels") from error


@click.command(
    epilog="""\b
Examples:
  effdet-verify --demo d0
  effdet-verify d0.pth --reference efficientdet-d0/ --report-dir report/
  effdet-verify d4.safetensors --reference efficientdet-d4.tar.gz --dtype float64 --image photo.jpg
  effdet-verify d0.pth --coco coco/ --results d0.json
  effdet-verify d0.pth --coco coco/ --limit 50 --reference-results official.json
  effdet-verify d0.pth --coco coco/ --limit 4 --reference efficientdet-d0/
"""
)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--reference", metavar="SOURCE", help="TensorFlow checkpoint of MODEL.")
@click.option(
    "--demo", metavar="VARIANT", help="Write, convert and verify a seeded checkpoint: nothing else is needed."
)
@click.option("--graph", is_flag=True, help="Run the checkpoint's own .meta instead of the built-in reference.")
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

    With --coco: evaluate its detections, and compare them with those of the checkpoint or of a results file.

    Exit code 0: all that was compared is equal; 1: something differs, or could not be compared; 2: wrong usage.
    """
    from rich.console import Console

    from verify.report.write import render_terminal, write_reports

    if options["coco"] is not None:
        result = verify_images(model, reference, demo, options)
        if result is None:  # not the first process of several: that one reports
            return
    else:
        result, report_dir = verify_layers(model, reference, demo, report_dir, options)
    for path in write_reports(result, report_dir) if report_dir is not None else ():
        click.echo(f"wrote {path}", err=True)
    render_terminal(result, Console())
    sys.exit(0 if result.passed else 1)


def verify_layers(
    model: Path | None, reference: str | Path | None, demo: str | None, report_dir: Path | None, options: dict[str, Any]
) -> tuple[Verification, Path | None]:
    """Verify layer by layer; a demo brings its own model, reference and folder of reports."""
    from verify.reference.base import uncollected

    with uncollected():
        from verify.demo import write_demo
        from verify.verification import Settings, verify_model

    refuse_options(COCO_OPTIONS, "needs --coco ROOT")
    settings = Settings.from_options(**{key: value for key, value in options.items() if key not in COCO_OPTIONS})
    if demo is not None:
        report_dir = report_dir or Path(f"effdet-demo-{demo}")
        reference, model = write_demo(demo, report_dir)
    if model is None or reference is None:
        raise click.UsageError("name MODEL and --reference SOURCE or --coco ROOT, or --demo VARIANT")
    with opened_source(reference) as source, progress_bar("layers") as progress:
        return verify_model(model, source, settings, progress), report_dir


def verify_images(
    model: Path | None, reference: str | None, demo: str | None, options: dict[str, Any]
) -> Verification | None:
    """Evaluate on COCO; None in all processes but the first."""
    from verify.detections.distributed import processes
    from verify.detections.run import CocoSettings
    from verify.evaluation import verify_detections

    refuse_options(("demo", "graph", "image", "seed", "dtypes", "modes"), "does not go with --coco")
    if model is None:
        raise click.UsageError("name MODEL, the converted file to evaluate")
    root, out, expected = (options[key] for key in ("coco", "results", "reference_results"))
    chosen = ("split", "limit", "batch", "workers", "device", "profile", "image_size")
    settings = CocoSettings(**{key: options[key] for key in chosen if options[key] is not None})
    with processes() as group, progress_bar("images", rate=True) as progress:
        report = progress if group.rank == 0 else None
        return verify_detections(model, root, settings, out, expected, reference, group, report)


def refuse_options(names: Iterable[str], reason: str) -> None:
    """Refuse options that were given and would have no effect."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} {reason}")


@click.command(
    epilog="""\b
Examples:
  effdet-detect d0.pth photo.jpg --out drawn/
  effdet-detect d0.pth photos/ 'more/**/*.png' --out drawn/ --score 0.5
  effdet-detect d0.pth val2017/ --json results.json --score 0 --profile official-eval --no-exif
"""
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Draw boxes and names here."
)
@click.option(
    "--json",
    "results",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=in_a_folder,
    metavar="FILE",
    help="Write all detections in COCO's results format: bbox is xmin, ymin, width, height in pixels.",
)
@click.option("--score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Least score to report.")
@click.option(
    "--profile",
    default="serving",
    show_default=True,
    metavar="NAME",
    help="serving, serving-hard, official-eval, official-eval-hard or hard.",
)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images a GPU works on at once.")
@click.option("--device", metavar="DEV", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Class names: one per line, or {id: name} as .json or .yaml; default: COCO's for 90 classes.",
)
@click.option("--exif/--no-exif", default=True, show_default=True, help="Turn images as their EXIF orientation says.")
@VERSION
@reports_errors
def detect(
    model: Path,
    images: tuple[str, ...],
    out: Path | None,
    results: Path | None,
    score: float,
    profile: str,
    batch: int,
    device: str | None,
    labels: Path | None,
    exif: bool,
) -> None:
    """Detect objects in IMAGES with the converted file MODEL.

    IMAGES are files, folders and patterns. An image that cannot be read is reported and left out, and the exit code is
    1 in the end; 2: wrong usage, or no image at all.
    """
    from effdet_torch.inference.detect_files import detect_files, find_images, require_unique_ids
    from effdet_torch.inference.labels import read_labels
    from effdet_torch.inference.predict import Predictor

    paths = find_images(images)
    if results is not None:
        require_unique_ids(paths)
    label_map = None if labels is None else read_labels(labels)
    predictor = Predictor(model, profile=profile, device=device, score_threshold=score, label_map=label_map)
    found = list(reported(detect_files(predictor, paths, out, batch, exif), len(paths)))
    if results is not None:
        write_json(results, [entry for file in found for entry in file.to_coco()], indent=None)
    sys.exit(1 if any(file.failed for file in found) else 0)


def reported(files: Iterable[FileDetections], total: int) -> Iterator[FileDetections]:
    """Print every result as it comes, and pass it on."""
    # Where the lines can be read as they come, they are the progress.
    with progress_bar("images", sys.maxsize if sys.stdout.isatty() else MANY_IMAGES) as progress:
        for done, file in enumerate(files, 1):
            click.echo(f"Error: {file.summary}" if file.failed else file.summary, err=file.failed)
            if progress is not None:
                progress(done, total)
            yield file


def opened_source(source: str | Path) -> VariableSource:
    """Open a source, with a progress bar while it is downloaded."""
    from converter.locate import open_checkpoint

    with progress_bar("download") as progress:
        return open_checkpoint(source, progress)


@contextmanager
def progress_bar(description: str, least: int = 0, rate: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show (done, total) on stderr, where somebody is watching and the total is at least what makes a bar worth it.

    With `rate` it also says how many are done per second.
    """
    if not sys.stderr.isatty():
        yield None
        return
    bars: list[Any] = []
    first: list[float] = []

    def show(done: int, total: int) -> None:
        if total < least:
            return
        if not bars:
            bars.append(click.progressbar(length=total, label=description, file=sys.stderr))
            first.extend((done, time.monotonic()))
        if rate and done > first[0]:
            bars[0].label = f"{description}, {(done - first[0]) / (time.monotonic() - first[1]):.1f}/s"
        bars[0].pos = min(done, bars[0].pos)  # a download may start over
        bars[0].update(done - bars[0].pos)

    try:
        yield show
    finally:
        for bar in bars:
            bar.render_finish()
