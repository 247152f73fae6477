#!/usr/bin/env bash
# With worker processes, albumentations repeats its random choices: in every worker, and in every epoch.
#
# Expected: a data set that augments with A.Compose gives new augmentations for every picture of every epoch, as it does
#   without workers. DataLoader gives each worker another seed in each epoch, for Python, NumPy and torch.
# Seen (albumentations 2.0.8, torch 2.13.0; different crops in 3 epochs of 240 pictures; two of 720 sometimes
#   agree by chance):
#                                            no workers    4 workers    4 persistent workers
#   A.Compose([A.RandomCrop(...)])              719            60              180
#   A.Compose([A.RandomCrop(...)], seed=1)      720            60              180
#   numpy.random.randint in __getitem__         719           718              719
#   There is no warning.
# Why, as far as this script shows it: a Compose owns its random generator, made when the Compose is made. The worker
#   processes start with copies of it, which DataLoader's seeds do not reach: the four workers draw the same numbers, and
#   if the next epoch starts new workers, they draw them again.
# Why it matters: training runs, and the loss looks normal, but with DataLoader's usual settings the network sees a fixed
#   set of augmentations, a quarter of one epoch's with four workers. More workers make it worse. A call of
#   Compose.set_random_seed in worker_init_fn, with torch.initial_seed(), gives 718.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check albumentations==2.0.8 torch==2.13.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" NO_ALBUMENTATIONS_UPDATE=1
cd "$work"
cat >program.py <<'PROGRAM'
import sys

import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

SIDE, CROP, PICTURES, EPOCHS = 512, 8, 240, 3
y, x = np.mgrid[0:SIDE, 0:SIDE]
PICTURE = np.stack([y % 256, x % 256, y // 256 * 2 + x // 256], axis=-1).astype(np.uint8)  # every pixel is unique


class Crops(Dataset):
    """Cuts the same picture at random and returns the first pixel of the crop, which tells where it was cut."""

    def __init__(self, crop):
        self.crop = crop

    def __len__(self):
        return PICTURES

    def __getitem__(self, index):
        return tuple(self.crop(PICTURE)[0, 0].tolist())


class Albumentations:
    def __init__(self, **options):
        self.compose = A.Compose([A.RandomCrop(CROP, CROP)], **options)

    def __call__(self, picture):
        return self.compose(image=picture)["image"]


def numpy_global(picture):
    top, left = np.random.randint(0, SIDE - CROP + 1, 2)
    return picture[top : top + CROP, left : left + CROP]


def reseed(_):
    get_worker_info().dataset.crop.compose.set_random_seed(torch.initial_seed() % 2**32)


def different(crop, workers, **options):
    loader = DataLoader(Crops(crop), batch_size=10, num_workers=workers, collate_fn=list, **options)
    return len({place for _ in range(EPOCHS) for batch in loader for place in batch})


if __name__ == "__main__":
    print(f"albumentations {A.__version__}, torch {torch.__version__}: different crops of {EPOCHS * PICTURES}")
    failed, drawn = False, EPOCHS * PICTURES
    torch.manual_seed(0)
    np.random.seed(0)
    for name, crop, expected in (
        ("A.Compose", Albumentations(), (drawn, drawn // 12, drawn // 4)),
        ("A.Compose(seed=1)", Albumentations(seed=1), (drawn, drawn // 12, drawn // 4)),
        ("numpy.random", numpy_global, (drawn, drawn, drawn)),
    ):
        counts = (different(crop, 0), different(crop, 4), different(crop, 4, persistent_workers=True))
        # Two draws can agree by chance, about once in 720.
        holds = all(limit - 5 <= count <= limit for count, limit in zip(counts, expected, strict=True))
        failed |= not holds
        text = "no workers {}, 4 workers {}, 4 persistent workers {}".format(*counts)
        print("   ", "as stated:" if holds else "CHANGED:  ", f"{name}: {text}")
    count = different(Albumentations(), 4, worker_init_fn=reseed)
    holds = drawn - 5 <= count <= drawn
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", f"A.Compose reseeded in each worker: {count}")
    sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
