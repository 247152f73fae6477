"""Make the pictures and reports of the gallery page, in build/gallery, from a checkpoint and COCO's photographs.

    python docs/site/gallery.py [--checkpoint ../shared/trained_d0_256] [--coco ../shared/coco50]

Only photographs that their annotation file lists under CC BY are used: they may be changed and shown, with a reference.
None of them is part of the repository; `mkdocs build` copies them into the site, if they are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED, OUT = ROOT.parent / "shared", ROOT / "build" / "gallery"
LICENCE = "Attribution License"  # as COCO calls CC BY 2.0
SHOWN = 6
ANNOTATIONS = Path("annotations", "instances_val2017.json")
TRAIN = "--augment none --batch 4 --epochs 20 --optimizer adam --lr 0.001 --val-every 5"
# Name of a report in the gallery -> what it is, and what wrote it.
REPORTS = {
    "parity.html": ("Parity report", "effdet-verify d0.pth --reference my_training/ --report-dir report/"),
    "evaluation.html": ("Evaluation report", "effdet-verify d0.pth --coco coco/ --report-dir report/"),
    "training.html": ("Training report", f"effdet-train coco/ --from d0.pth --out run/ {TRAIN}"),
}


def main() -> None:
    """Read the options, run the commands, and write the list of pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHARED / "trained_d0_256")
    parser.add_argument("--coco", type=Path, default=SHARED / "coco50")
    options = parser.parse_args()
    for needed in (options.checkpoint, options.coco):
        if not needed.exists():
            sys.exit(f"Error: {needed} does not exist; pass --checkpoint and --coco")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "gallery")
        photos = make(options.checkpoint.resolve(), options.coco.resolve(), Path(folder), made)
        (made / "pictures.md").write_text("\n".join(page(photos)), encoding="utf-8")
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(made, OUT)
    print(f"wrote {OUT}")


def make(checkpoint: Path, coco: Path, folder: Path, made: Path) -> list[Mapping[str, Any]]:
    """Run every command in a folder, gather what is shown in another, and return the photographs."""
    made.mkdir()
    photos = write_subset(coco, folder / "coco")
    (folder / "my_training").symlink_to(checkpoint)
    shown = photos[:SHOWN]
    files = [f"coco/val2017/{photo['file_name']}" for photo in shown]
    run("effdet-convert my_training d0.pth", folder)
    run(f"effdet-detect d0.pth {' '.join(files)} --out drawn/", folder)
    for photo in shown:
        shutil.copy(folder / "drawn" / photo["file_name"], made)
    for name, report in zip(REPORTS, ("report/report.html", "report/report.html", "run/report.html"), strict=True):
        run(REPORTS[name][1], folder)
        shutil.move(folder / report, made / name)
        shutil.rmtree(folder / "report", ignore_errors=True)
    shutil.copy(folder / "run" / "curves.png", made)
    return shown


def run(command: str, folder: Path) -> None:
    """Run one of the installed commands; its name is that of the script beside Python."""
    name, *words = command.split()
    print(f"$ {command}", flush=True)
    subprocess.run([Path(sys.executable).with_name(name), *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def write_subset(coco: Path, out: Path) -> list[Mapping[str, Any]]:
    """Write the photographs under `LICENCE` as a data set of its own, and return them: most objects first."""
    data = json.loads((coco / ANNOTATIONS).read_text(encoding="utf-8"))
    (licence,) = (row["id"] for row in data["licenses"] if row["name"] == LICENCE)
    data["images"] = [row for row in data["images"] if row["license"] == licence]
    ids = {row["id"] for row in data["images"]}
    data["annotations"] = [row for row in data["annotations"] if row["image_id"] in ids]
    (out / ANNOTATIONS).parent.mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (out / ANNOTATIONS).with_name(f"instances_{split}.json").write_text(json.dumps(data), encoding="utf-8")
        (out / split).mkdir()
        for row in data["images"]:
            (out / split / row["file_name"]).symlink_to(coco / "val2017" / row["file_name"])
    objects = [row["image_id"] for row in data["annotations"]]
    return sorted(data["images"], key=lambda row: -objects.count(row["id"]))


def page(photos: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the gallery's Markdown."""
    yield '## Detections\n\n<div class="gallery" markdown>\n'
    for photo in photos:
        yield from figure(photo["file_name"], f"Photograph: [Flickr]({photo['flickr_url']}), CC BY 2.0; boxes added")
    yield "</div>\n\n## Reports\n"
    for name, (title, command) in REPORTS.items():
        yield f"* [{title}](gallery/{name}): `{command}`"
    yield ""
    yield from figure("curves.png", "The curves of that training: 20 epochs on the photographs above and a few more")


def figure(name: str, caption: str) -> Iterator[str]:
    """Yield a picture with its caption."""
    yield f"<figure markdown>\n![{name}](gallery/{name})\n<figcaption markdown>{caption}</figcaption>\n</figure>\n"


if __name__ == "__main__":
    main()
