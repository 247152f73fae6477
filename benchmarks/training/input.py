"""Time the input of a training: photographs to augmented batches with their targets, beside the `effdet` package.

    python -m benchmarks.training.input COCO [--sizes 256,512] [--workers 1,2] [--images 200] [--rounds 3]

COCO is a folder with `annotations/instances_val2017.json` and `val2017/`. Both loaders flip and scale, assign anchors
in their workers, and end with normalised float32 batches. They run in turn; the table shows the fastest round, timed
from the first batch on, because one keeps its workers between epochs and the other starts them anew.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.benchmark import timer

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.data.dataset import DataSet
from effdet_torch.data.sources import read_split
from effdet_torch.train.input.loader import TrainLoader
from effdet_torch.train.objective.targets import TargetAssigner
from effdet_torch.train.recipe import make_recipe

BATCH = 8
Loader = Callable[[EfficientDetConfig, int], Iterable[Tensor]]


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    source = options.folder, options.images
    loaders: dict[str, Loader] = {"ours": ours(*source), "effdet": theirs(*source)}
    print(f"flip, scale, targets; batches of {BATCH}; images per second, fastest of {options.rounds} rounds")
    for size in map(int, options.sizes.split(",")):
        config = get_config("d0", image_size=(size, size))
        for workers in map(int, options.workers.split(",")):
            best = dict.fromkeys(loaders, 0.0)
            for _ in range(options.rounds):
                best = {name: max(best[name], rate(make(config, workers))) for name, make in loaders.items()}
            ratio = best["ours"] / best["effdet"]
            print(f"d0 {size} px, workers {workers}: {best['ours']:.1f}, effdet {best['effdet']:.1f}: {ratio:.2f} x")


def ours(folder: Path, images: int) -> Loader:
    """Return a loader of this project for a number of images, some of them several times."""
    data = repeated(read_split(folder), images)
    recipe = make_recipe("official", batch=BATCH)

    def make(config: EfficientDetConfig, workers: int) -> Iterable[Tensor]:
        loader = TrainLoader(data, config, recipe, TargetAssigner(config), workers=workers)
        return (batch.images for batch in loader.batches(0, images // BATCH))

    return make


def theirs(folder: Path, images: int) -> Loader:
    """Return a loader of `effdet` as its training uses it; what its prefetcher does on a GPU is done on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions while it is imported
        from effdet.anchors import AnchorLabeler, Anchors
        from effdet.data import create_dataset, create_loader
        from effdet.data.transforms import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, transforms_coco_train
    dataset = create_dataset("coco2017", folder, "val")
    for name in ("img_ids", "img_infos"):
        once = list(getattr(dataset.parser, name))
        setattr(dataset.parser, name, [once[i % len(once)] for i in range(images)])
    mean, deviation = (
        torch.tensor(values).mul(255).view(1, 3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )

    def make(config: EfficientDetConfig, workers: int) -> Iterable[Tensor]:
        transform = transforms_coco_train(config.image_size, use_prefetcher=True, fill_color="mean")
        anchors = Anchors(3, 7, 3, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)], 4.0, config.image_size)
        loader = create_loader(
            dataset,
            (3, *config.image_size),
            BATCH,
            is_training=True,
            use_prefetcher=False,
            num_workers=workers,
            transform_fn=transform,
            anchor_labeler=AnchorLabeler(anchors, 90, match_threshold=0.5),
        )
        return (pixels.float().sub_(mean).div_(deviation) for pixels, _ in islice(loader, images // BATCH))

    return make


def repeated(data: DataSet, images: int) -> DataSet:
    """Return a data set of a number of images: those of another, several times."""
    ids = [image.image_id for image in data.images]
    olds = [ids[number % len(ids)] for number in range(images)]
    by_id = {image.image_id: image for image in data.images}
    objects = {number: [item for item in data.objects if item.image_id == number] for number in ids}
    return replace(
        data,
        images=tuple(by_id[old]._replace(image_id=new) for new, old in enumerate(olds)),
        objects=tuple(item._replace(image_id=new) for new, old in enumerate(olds) for item in objects[old]),
    )


def rate(batches: Iterable[Tensor]) -> float:
    """Return images per second from the first batch on."""
    rest = iter(batches)
    next(rest)
    start, images = timer(), 0
    for batch in rest:
        images += len(batch)
    return images / (timer() - start)


if __name__ == "__main__":
    main()
