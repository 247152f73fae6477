"""`effdet-train`: parse, call one function."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effdet_torch.errors import UsageError
from effdet_torch.terminal.command import Command, standard
from effdet_torch.terminal.files import output_folder
from effdet_torch.terminal.sizes import image_size
from effdet_torch.terminal.text import counted, say
from effdet_torch.terminal.verbosity import tell

if TYPE_CHECKING:
    from effdet_torch.train.monitor.check_data import CheckedData
    from effdet_torch.train.monitor.estimate import Estimate, TooLarge
    from effdet_torch.train.request import OpenSource, TrainRequest
    from effdet_torch.train.run.results import Results

AUTO = "auto"
NOTHING = "none"


def batch_size(_: click.Context, __: click.Parameter, text: str | None) -> int | str | None:
    """Parse a number of images; "auto" stays."""
    if text is None or text == AUTO:
        return text
    if re.fullmatch(r"[1-9]\d{0,5}", text) is None:
        raise click.BadParameter(f"{text!r} is not a number of images, nor {AUTO}")
    return int(text)


def augmentations(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Parse names that are separated by commas; "none" is none of them."""
    names = None if text is None else tuple(part.strip() for part in text.split(",") if text != NOTHING)
    if names is not None and "" in names:
        raise click.BadParameter(f"{text!r} has an empty name; separate names by single commas, or pass {NOTHING}")
    return names


def pattern(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Check a regular expression."""
    try:
        re.compile(text or "")
    except re.error as error:
        raise click.BadParameter(f"{text!r} is not a regular expression: {error}") from error
    return text


def average(_: click.Context, __: click.Parameter, wanted: bool | None) -> Any:
    """Return None for the recipe's averages, else the decay in a tuple of one, None being no averages."""
    if wanted is None:
        return None
    from effdet_torch.train.recipe import OFFICIAL

    return (OFFICIAL.ema if wanted else None,)


FROM_RECIPE = "default: the recipe's."
POSITIVE, FRACTION = click.IntRange(1), click.FloatRange(0, 1, min_open=True, max_open=True)
RATE = click.FloatRange(0, min_open=True)


@click.command(
    cls=Command,
    short_help="Train, or fine-tune on your own classes.",
    epilog="""\b
Examples:
  effdet-train my_dataset/ --from d0.pth --epochs 50
  effdet-train my_dataset/ --from efficientdet-d0/ --freeze 'backbone' --out runs/heads
  effdet-train coco/ --from scratch --variant d1 --recipe official
  effdet-train photos/ --from d0 --val-split 0.1 --batch auto --amp
  effdet-train my_dataset/ --from d0.pth --check-data
  effdet-train --resume --out runs/heads --epochs 80
""",
)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    help="What to start from: a converted file, hf:user/repository (Hugging Face Hub), anything that effdet-convert "
    "takes (checkpoint, official name, URL, backbone), or scratch: random weights; default: the official weights of "
    "--variant.",
)
@click.option("--out", "-o", callback=output_folder, metavar="DIR", help="Run folder; default: runs/train, train2, ...")
@click.option("--resume", is_flag=True, help="Continue the run in --out, with its settings.")
@click.option(
    "--recipe",
    "recipe_name",
    type=click.Choice(["default", "official"]),
    help="official: the original trainer's settings; default: where today's knowledge is better.",
)
@click.option(
    "--variant",
    metavar="NAME",
    help="Of the detector: d0 (default) to d7, d7x, lite0 to lite4, lite3x; SOURCE must be of it.",
)
@click.option("--hparams", metavar="FILE|KEY=VALUE,...", help="Hyperparameters of SOURCE in the official syntax.")
@click.option(
    "--image-size",
    callback=image_size,
    metavar="SIDE|WxH",
    help="Size of the network input in pixels; default: SOURCE's, or the variant's.",
)
@click.option("--epochs", type=POSITIVE, help=f"Passes over the training images; {FROM_RECIPE}")
@click.option(
    "--batch",
    callback=batch_size,
    metavar="N|auto",
    help=f"Images per process and forward pass; auto: as many as the GPU's memory allows; {FROM_RECIPE}",
)
@click.option("--grad-accum", type=POSITIVE, help=f"Forward passes per update; {FROM_RECIPE}")
@click.option(
    "--lr", type=RATE, help="Highest learning rate; default: the recipe's for the number of images per update."
)
@click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), help=f"What updates; {FROM_RECIPE}")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "stepwise", "polynomial"]),
    help=f"How the learning rate falls; {FROM_RECIPE}",
)
@click.option(
    "--warmup-epochs", type=click.FloatRange(0), help=f"Epochs in which the learning rate rises; {FROM_RECIPE}"
)
@click.option(
    "--freeze", callback=pattern, metavar="REGEX", help="Do not train parameters whose names start with a match."
)
@click.option("--freeze-bn/--no-freeze-bn", default=None, help="Batch norms keep and use their moving statistics.")
@click.option("--ema/--no-ema", default=None, callback=average, help=f"Keep moving averages; {FROM_RECIPE}")
@click.option("--amp/--no-amp", default=None, help="Run the network in 16 bits where that is safe.")
@click.option("--sync-bn/--no-sync-bn", default=None, help="Batch norms see the images of all processes.")
@click.option(
    "--augment",
    callback=augmentations,
    metavar="LIST",
    help="Comma-separated, in this order: gridmask, autoaugment-v0..v3 or randaugment, flip, scale; mosaic in the "
    f"default recipe only; none; {FROM_RECIPE}",
)
@click.option("--fill-color", type=click.Choice(["mean", "0"]), help=f"What surrounds images; {FROM_RECIPE}")
@click.option("--val-split", type=FRACTION, metavar="SHARE", help="Put this share of the images aside for validation.")
@click.option("--val-every", type=POSITIVE, metavar="N", help=f"Epochs between validations; {FROM_RECIPE}")
@click.option("--patience", type=POSITIVE, metavar="N", help="Stop after so many validations without a better AP.")
@click.option("--seed", type=click.IntRange(0), help=f"Of everything that is random; {FROM_RECIPE}")
@click.option("--workers", type=click.IntRange(0), help="Processes that read images; default: by the number of cores.")
@click.option("--device", metavar="DEV", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one.")
@click.option("--tensorboard/--no-tensorboard", default=None, help="Write events for TensorBoard.")
@click.option("--check-data", is_flag=True, help="Only read and describe DATA, and draw 16 images; train nothing.")
@standard
@click.pass_obj
def train(
    open_source: OpenSource | None, /, data: Path | None, out: Path | None, resume: bool, check_data: bool, **given: Any
) -> None:
    """Train an EfficientDet on DATA, or fine-tune SOURCE: a data set in COCO's layout, Roboflow, VOC, YOLO, ...

    Checkpoints, curves and a page are in --out: best.pth goes through effdet-detect, effdet-verify, effdet-export and
    effdet-convert --to tf1. With torchrun, all its processes train together.

    Exit code 0: done; 1: something failed, and the last good state is kept; 2: wrong usage.
    """
    options = chosen(given)
    if resume and check_data:
        raise click.UsageError("--resume and --check-data exclude each other")
    request = continued(data, out, options) if resume else started(data, out, check_data, options)
    from effdet_torch.train import trainer

    if check_data:
        say(*data_lines(*trainer.check(request, open_source), request.out))
        return
    if (results := trainer.train(request, open_source)) is not None:
        tell(*result_lines(results, request.out))


def data_lines(data: CheckedData, estimate: Estimate | TooLarge, out: Path) -> list[str]:
    """Return what --check-data found, for people."""
    lines = []
    for side in (data.train, data.val):
        sizes = "" if side.median is None else ", median size {} x {}".format(*side.median)
        lines.append(
            f"{side.split}: {counted(side.images, 'image')} ({side.empty} without boxes), "
            f"{side.boxes} {'box' if side.boxes == 1 else 'boxes'}, at most {side.most_boxes} in an image{sizes}"
        )
    val = {row.label: row for row in data.val.classes}
    width = max([len(row.name) for row in data.train.classes] + [5])
    lines.append(f"{'class':{width + 5}}  images  boxes  val images  val boxes")
    for row in data.train.classes:
        other = val.get(row.label)
        held = (row.images, row.boxes, other.images if other else 0, other.boxes if other else 0)
        lines.append(f"{row.label:4} {row.name:{width}}  {held[0]:6}  {held[1]:5}  {held[2]:10}  {held[3]:9}")
    return [
        *lines,
        *(note.sentence for note in data.notes),
        *data.remarks,
        f"training  {estimate}",
        f"pictures  {out / 'samples_data.png'}",
    ]


def result_lines(results: Results, out: Path) -> list[str]:
    """Return what a training achieved, for people."""
    best = results.best
    if best is None:
        return [f"run       {out}"]
    copies = ", ".join(f"{copy} {100 * values['AP']:.1f}" for copy, values in best.metrics.items())
    return [f"best      {out / 'best.pth'}: AP {copies}, after epoch {best.epoch}", f"report    {out / 'report.html'}"]


def chosen(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, by the names of their settings."""
    options = {name: value for name, value in given.items() if value is not None}
    if "ema" in options:
        (options["ema"],) = options["ema"]
    if options.get("batch") == AUTO:
        del options["batch"]
        options["batch_auto"] = True
    return options


def started(data: Path | None, out: Path | None, check_data: bool, options: dict[str, Any]) -> TrainRequest:
    """Return the request of a new run."""
    from dataclasses import fields, replace

    from effdet_torch.train.recipe import Recipe, make_recipe
    from effdet_torch.train.request import TrainRequest
    from effdet_torch.train.run.place import choose_folder

    if data is None:
        raise click.UsageError("DATA is missing: name the folder of the data set, or continue a run with --resume")
    name = options.pop("recipe_name", "default")
    of_recipe = {field.name: options.pop(field.name) for field in fields(Recipe) if field.name in options}
    recipe = replace(make_recipe(name), **of_recipe)  # not by make_recipe: "no averages" is None, too
    if "hparams" in options and "source" not in options:
        raise click.UsageError("--hparams describes SOURCE; name it with --from")
    folder = choose_folder(out)
    return TrainRequest(data, folder, recipe, recipe_name=name, check_data=check_data, **options)


def continued(data: Path | None, out: Path | None, options: dict[str, Any]) -> TrainRequest:
    """Return the request of a run that goes on."""
    from effdet_torch.train.run.settings import resumed

    if out is None:
        raise UsageError("--resume needs --out, the folder of the run")
    return resumed(out, options if data is None else {**options, "data": data})
