"""`effdet-export`: parse, call one function, print its report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effdet_torch.engines.names import FORMAT_NAMES, format_of, require_exporter
from effdet_torch.engines.table import is_exported
from effdet_torch.errors import UsageError
from effdet_torch.file_format import untrained
from effdet_torch.terminal.bar import progress_bar
from effdet_torch.terminal.command import Command, standard
from effdet_torch.terminal.files import model_file, named_file, writes
from effdet_torch.terminal.sizes import parsed_size
from effdet_torch.terminal.text import counted, say
from effdet_torch.terminal.verbosity import tell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from effdet_torch.export.export import Exported
    from effdet_torch.outputs.paths import RunFiles

ANY = "dynamic"
MODEL_SIZE = "model"
FEW_IMAGES = 20  # to calibrate with
PRECISIONS = ("float32", "float16", "int8")
FORMAT_HELP = "Default: by OUT's suffix; .onnx is onnx and .pt2 is torch, unless tensorrt or aoti is chosen."


def list_formats(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print what each format can hold, and exit."""
    if wanted:
        from effdet_torch.export.listing import table_lines

        say(*table_lines(), hanging=6)
        context.exit()


def image_size(_: click.Context, __: click.Parameter, text: str) -> tuple[int, int] | str | None:
    """Parse SIDE or WIDTHxHEIGHT to (height, width); "dynamic" is None."""
    if text in (ANY, MODEL_SIZE):
        return None if text == ANY else text
    return parsed_size(text, f", nor {ANY}")


def batch_size(_: click.Context, __: click.Parameter, text: str) -> int | None:
    """Parse a number of images; "dynamic" is None."""
    if text == ANY:
        return None
    if re.fullmatch(r"[1-9]\d{0,2}", text) is None:
        raise click.BadParameter(f"{text!r} is not a number of images, 1 to 999, nor {ANY}")
    return int(text)


def written_files(out: Path) -> Iterable[Path]:
    """Return the files of OUT."""
    from effdet_torch.engines.table import files_of

    return files_of(out)


@click.command(
    cls=Command,
    short_help="To ONNX, OpenVINO, TensorFlow Lite and others.",
    epilog="""\b
Examples:
  effdet-export d0.pth d0.onnx
  effdet-export d0.pth d0.xml --image-size 640x384 --batch dynamic
  effdet-export d0.pth d0.onnx --nms soft --input uint8 --profile serving
  effdet-export d0.pth d0.pt2 --format aoti
  effdet-export lite0.pth lite0.tflite --float16
  effdet-export lite0.pth lite0.tflite --int8 --calibrate photos/
""",
)
@click.argument("model", callback=model_file)
@click.argument("out", callback=named_file)
@click.option("--format", "format_name", type=click.Choice(FORMAT_NAMES), help=FORMAT_HELP)
@click.option(
    "--nms",
    type=click.Choice(["none", "soft", "hard"]),
    help="none: the network alone, whose outputs effdet-detect and Predictor turn into detections; soft, hard: "
    "detections come out of the file. Default: none; of .tflite files hard, as in the official ones.",
)
@click.option(
    "--input",
    "pixels",
    type=click.Choice(["normalized", "uint8"]),
    help="normalized: (B, 3, H, W) floats, in .tflite files (B, H, W, 3); uint8: (B, H, W, 3) bytes, RGB. Default: "
    "normalized; with int8 uint8.",
)
@click.option(
    "--batch", default="1", show_default=True, callback=batch_size, metavar="N|dynamic", help="Images at a time."
)
@click.option(
    "--image-size",
    default=MODEL_SIZE,
    show_default=True,
    callback=image_size,
    metavar="SIDE|WxH|dynamic",
    help="Size of the input in pixels.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of weights and arithmetic; inputs and outputs stay as they are. Default: float32.",
)
@click.option("--float16", is_flag=True, help="The same as --precision float16.")
@click.option("--int8", is_flag=True, help="The same as --precision int8; needs --calibrate.")
@click.option(
    "--calibrate",
    multiple=True,
    metavar="PATH",
    help="With int8: photos like those that OUT will see, some hundreds: a folder, a file or a quoted pattern; "
    "repeatable.",
)
@click.option("--opset", type=click.IntRange(18, 23), help="Of .onnx files; default 18.")
@click.option(
    "--profile",
    default="model",
    show_default=True,
    metavar="NAME",
    help="With --nms: model (serving, with its own nms_configs), serving or official-eval.",
)
@click.option("--check/--no-check", default=True, help="Run OUT and compare it with MODEL before it is kept; default.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_formats,
    help="List what each format can hold, and which cases are tested.",
)
@standard
@writes(out=written_files)
def export(
    model: Path,
    out: Path,
    format_name: str | None,
    check: bool,
    calibrate: tuple[str, ...],
    files: RunFiles,
    **settings: Any,
) -> None:
    """Export the converted file MODEL to OUT, for another runtime.

    MODEL may be the name of an official model (d0), or hf:user/repository[@revision] on the Hugging Face Hub. OUT ends
    in .onnx, .xml (OpenVINO), .pt2, .torchscript, .pte or .tflite. It is run and compared with MODEL before it is kept.
    effdet-detect, effdet-verify --coco and Predictor take it like MODEL.

    Exit code 0: done; 1: something failed, or OUT would give other results; 2: wrong usage.
    """
    from effdet_torch.export.settings import ExportSettings, require_calibration

    if is_exported(model):
        raise UsageError(f"{model} is exported already; pass the converted file (.pth or .safetensors) that it is from")
    # Before torch is imported, which takes seconds.
    format_name, chosen = format_of(out.suffix, format_name), ExportSettings(**with_precision(settings))
    require_exporter(format_name)
    require_calibration(chosen.precision, len(calibrate))
    from effdet_torch.export.export import export_model
    from effdet_torch.export.format_table import FORMATS
    from effdet_torch.export.formats import require_possible
    from effdet_torch.inference.calibration import CalibrationImages
    from effdet_torch.inference.labels import own_names
    from effdet_torch.network.checkpoint import load_model

    loaded = load_model(model, check_values=True)
    interface = FORMATS[format_name].interface(chosen, loaded.config)
    cell = require_possible(FORMATS[format_name], interface)
    if cell.status != "validated":
        tell(f"{cell.status}: {cell.text}", err=True)
    with progress_bar("calibration images") as progress:
        images = CalibrationImages(calibrate, loaded.config, interface.image_size, progress) if calibrate else ()
        done = export_model(loaded, out, chosen, format_name, check, own_names(loaded.config), images)
    tell(*report(done))


def with_precision(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with one precision, which two options and --precision can state."""
    named = [name for name in PRECISIONS if settings.pop(name, False)]
    chosen = {*named, *filter(None, [settings["precision"]])}
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(sorted(chosen))} exclude each other; choose one precision")
    return settings | {"precision": min(chosen, default="float32")}


def report(done: Exported) -> list[str]:
    """Return what was written, for people."""
    config, interface = done.document.config, done.document.interface
    size = "{1} x {0} pixels".format(*interface.image_size) if interface.image_size else "images of any size"
    batch = "any batch" if interface.batch is None else f"batch {interface.batch}"
    skipped = "skipped: OUT was not run" if done.format.is_run else f"none: {done.format.runtime} is needed to run OUT"
    checked = skipped if done.checked is None else str(done.checked)
    parts = [done.format.name, interface.outputs, interface.pixels, batch, size, interface.precision]
    notes = [_calibrated(done), *done.format.notes(interface.outputs), untrained(done.document.metadata)]
    written = ", ".join(f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in done.files)
    return [
        f"model    {config.name}, {config.class_counts}",
        f"format   {', '.join(parts)}",
        *(f"note     {note}" for note in notes if note),
        f"check    {checked}",
        f"result   {written}",
    ]


def _calibrated(done: Exported) -> str:
    """Return on how many images ranges were measured; "" if on none."""
    images = done.document.metadata.get("calibrated_on", 0)
    few = "few: pass some hundreds like those that OUT will see; " if images < FEW_IMAGES else ""
    return (
        f"ranges measured on {counted(images, 'image')}; {few}AP on your data shows what 8 bits cost" if images else ""
    )
