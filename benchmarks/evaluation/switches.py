"""Measure what each switch of the postprocessing is worth in AP, and write the table into docs/evaluation.md.

    python -m benchmarks.evaluation.switches [--checkpoint ../shared/trained_d0_256] [--coco ../shared/coco50] [--print]

The network runs once per copy of the weights; every row changes one switch of the profile official-eval.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.project import SHARED, write_table
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from effdet_torch.data.dataset import DataSet
from effdet_torch.data.sources import read_split
from effdet_torch.inference.predict import Predictor
from effdet_torch.metrics.coco import CocoResult, coco_metrics
from effdet_torch.processing.profiles import PROFILES, Profile

OFFICIAL = PROFILES["official-eval"]
SWITCHES: Mapping[str, Profile] = {
    "official-eval": OFFICIAL,
    "hard instead of soft NMS (`official-eval-hard`)": PROFILES["official-eval-hard"],
    "score threshold 0.1 instead of 0.001": replace(OFFICIAL, score_threshold=0.1),
    "all classes suppress each other": replace(OFFICIAL, per_class=False),
    "best class per anchor instead of the top 5000": replace(OFFICIAL, candidates="best_class"),
    "top 1000 instead of the top 5000": replace(OFFICIAL, max_candidates=1000),
    "boxes clipped to the network input": replace(OFFICIAL, clip=True),
    "`serving` (best class, one NMS for all, clipped)": PROFILES["serving"],
    "`serving-hard`": PROFILES["serving-hard"],
}
VIEWS: tuple[ViewName, ...] = ("ema", "raw")


def main() -> None:
    """Read the options, measure, and write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHARED / "trained_d0_256")
    parser.add_argument("--coco", type=Path, default=SHARED / "coco50")
    parser.add_argument("--print", dest="only_print", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    table = to_table(measure(options.checkpoint, read_split(options.coco)))
    if options.only_print:
        print(table)
    else:
        write_table("evaluation.md", "switches", table)


def measure(checkpoint: Path, split: DataSet) -> dict[str, dict[str, float]]:
    """Return the 12 numbers for every row of the table."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, open_checkpoint(checkpoint) as source:
        for view in VIEWS:
            path = Path(folder) / f"{view}.pth"
            convert_checkpoint(prepare(source, weights=view), path)
            profiles = SWITCHES if view == "ema" else {"raw weights instead of averages": OFFICIAL}
            predictor = Predictor(path, device="cpu", score_threshold=0)
            for name, results in detect(predictor, split, profiles).items():
                rows[name] = coco_metrics(split.dataset, results, split.image_ids)
    return rows


def detect(predictor: Predictor, split: DataSet, profiles: Mapping[str, Profile]) -> dict[str, list[CocoResult]]:
    """Return the detections of several profiles from one run of the network."""
    found: dict[str, list[CocoResult]] = {name: [] for name in profiles}
    for image in split.images:
        pixels, image_scales = predictor.prepare([image.path], apply_exif=False)
        outputs = predictor.engine(pixels)
        for name, profile in profiles.items():
            (detections,) = predictor.detections(outputs[0], outputs[1], image_scales, profile)
            found[name] += detections.to_coco(image.image_id)
    return found


def to_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table in Markdown, in AP points."""
    base = rows["official-eval"]["AP"]
    lines = ["| switch | AP | difference | AP50 | AP75 | AR100 |", "| --- | --- | --- | --- | --- | --- |"]
    for name, metrics in rows.items():
        numbers = " | ".join(f"{100 * metrics[key]:.2f}" for key in ("AP50", "AP75", "AR100"))
        difference = "" if metrics["AP"] == base else f"{100 * (metrics['AP'] - base):+.2f}"
        lines.append(f"| {name} | {100 * metrics['AP']:.2f} | {difference} | {numbers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
