"""One contestant of `benchmarks.peers` in a process of its own: a line of JSON in, a line of JSON out.

    python worker.py CONTESTANT MODEL SIZE      # runs in the contestant's own interpreter

Only the contestants that are ours import this project. A contestant has three stages, so that each can be exchanged
for that of another: pixels of an image file, outputs of the network, detections.
"""

# ruff: noqa: D102 - the stages are described once, in `Contestant`

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Outputs = tuple[list[Any], list[Any]]  # (B, anchors * classes, H_l, W_l) and (B, anchors * 4, H_l, W_l) per level
IOU, CANDIDATE_SCORE = 0.5, 0.001


class Contestant(Protocol):
    """What is timed and exchanged."""

    versions: dict[str, str]

    def pixels(self, path: str) -> tuple[Any, float]:
        """Return network input (1, 3, H, W), and the factor from its pixels to those of the image."""

    def network(self, pixels: Any) -> Outputs:
        """Return logits and deltas."""

    def anchors(self) -> Any:
        """Return all anchors, (A, 4) as ymin, xmin, ymax, xmax."""

    def detections(self, outputs: Outputs, scale: float, size: tuple[int, int], anchors: Any | None) -> Any:
        """Return (N, 6): xmin, ymin, xmax, ymax, score, COCO category; of an image of (width, height)."""

    def file(self, path: str) -> Any:
        """Return the detections in a file, as a user gets them."""


class Ours:
    """A `Predictor` with hard NMS."""

    def __init__(self, model: str, size: int) -> None:
        from effdet_torch import Predictor

        self.predictor = Predictor(model, profile="hard", score_threshold=CANDIDATE_SCORE, image_size=(size, size))
        self.versions = {"effdet-convert": version("effdet-convert"), "runtime": self.predictor.runtime}

    def pixels(self, path: str) -> tuple[Any, float]:
        pixels, scales = self.predictor.prepare([path])
        return pixels, float(scales[0])

    def network(self, pixels: Any) -> Outputs:
        logits, deltas = self.predictor.engine(pixels)[:2]
        return list(logits), list(deltas)

    def anchors(self) -> Any:
        from effdet_torch.geometry.anchors import anchors_yxyx

        return anchors_yxyx(self.predictor.config)

    def detections(self, outputs: Outputs, scale: float, size: tuple[int, int], anchors: Any | None) -> Any:
        if anchors is not None:
            raise ValueError("ours takes its own anchors only")
        return _rows(self.predictor.detections(*outputs, np.array([scale], np.float32))[0])

    def file(self, path: str) -> Any:
        return _rows(self.predictor(path)[0])


def _rows(found: Any) -> Any:
    return np.concatenate((found.boxes_xyxy, found.scores[:, None], found.category_ids[:, None]), axis=1)


class Effdet:
    """The predicting bench of `effdet`, with the transforms of its validation."""

    def __init__(self, model: str, size: int) -> None:
        import torch
        from effdet import create_model
        from effdet.data.transforms import transforms_coco_eval

        self.torch, self.versions = torch, {"effdet": version("effdet"), "torch": torch.__version__}
        self.bench = create_model(
            "tf_efficientdet_d0",
            bench_task="predict",
            num_classes=90,
            image_size=(size, size),
            redundant_bias=True,
            checkpoint_path=model,
        ).eval()
        self.transform = transforms_coco_eval(img_size=size, interpolation="bilinear", use_prefetcher=True)
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255

    def pixels(self, path: str) -> tuple[Any, float]:
        from PIL import Image

        with Image.open(path) as image:
            pixels, target = self.transform(image.convert("RGB"), {})
        batch = self.torch.from_numpy(np.asarray(pixels))[None].float()
        return ((batch - self.mean) / self.std).numpy(), float(target["img_scale"])

    def network(self, pixels: Any) -> Outputs:
        with self.torch.inference_mode():
            logits, deltas = self.bench.model(self.torch.from_numpy(pixels))
        return list(logits), list(deltas)

    def anchors(self) -> Any:
        return self.bench.anchors.boxes.numpy()

    def detections(self, outputs: Outputs, scale: float, size: tuple[int, int], anchors: Any | None) -> Any:
        from effdet.bench import _batch_detection, _post_process

        torch, bench = self.torch, self.bench
        logits, deltas = ([torch.as_tensor(level) for level in head] for head in outputs)
        kept = (bench.num_levels, bench.num_classes, bench.max_detection_points)
        with torch.inference_mode():
            classes, boxes, indices, numbers = _post_process(logits, deltas, *kept)
            table = bench.anchors.boxes if anchors is None else torch.from_numpy(anchors)
            sizes = torch.tensor([size], dtype=torch.float32)
            found = _batch_detection(1, classes, boxes, table, indices, numbers, torch.tensor([scale]), sizes)
        return self._scored(found[0].numpy())

    def file(self, path: str) -> Any:
        from PIL import Image

        pixels, scale = self.pixels(path)
        with Image.open(path) as image:
            size = image.size
        info = {"img_scale": self.torch.tensor([scale]), "img_size": self.torch.tensor([size]).float()}
        with self.torch.inference_mode():
            return self._scored(self.bench(self.torch.from_numpy(pixels), info)[0].numpy())

    @staticmethod
    def _scored(found: Any) -> Any:
        return found[found[:, 4] >= CANDIDATE_SCORE]


class LibreYolo:
    """`LibreEfficientDet`; its d0 has a fixed size of 512, so another one is written into its tables first."""

    def __init__(self, model: str, size: int) -> None:
        from dataclasses import replace

        import torch
        from libreyolo import LibreEfficientDet
        from libreyolo.models.efficientdet.config import INPUT_SIZES, SCALE_CONFIGS
        from libreyolo.utils.coco import COCO91_TO_COCO80

        self.versions = {"libreyolo": version("libreyolo"), "torch": torch.__version__}
        if size != INPUT_SIZES["d0"]:
            SCALE_CONFIGS["d0"] = replace(SCALE_CONFIGS["d0"], image_size=size)
            INPUT_SIZES["d0"] = size
        self.torch, self.size = torch, size
        self.model = LibreEfficientDet(model, size="d0", device="cpu")
        self.detector = self.model
        self.category_ids = np.zeros(80, np.int64)  # its classes count the 80 that COCO uses
        for category_id, channel in COCO91_TO_COCO80.items():
            self.category_ids[channel] = category_id

    def pixels(self, path: str) -> tuple[Any, float]:
        pixels, _, _, ratio = self.model._preprocess(path)
        return pixels.numpy(), 1 / ratio

    def network(self, pixels: Any) -> Outputs:
        with self.torch.inference_mode():
            logits, deltas = self.model._forward(self.torch.from_numpy(pixels))
        return list(logits), list(deltas)

    def anchors(self) -> Any:
        from libreyolo.postprocess.efficientdet import generate_anchors

        return generate_anchors(self.size).numpy()

    def detections(self, outputs: Outputs, scale: float, size: tuple[int, int], anchors: Any | None) -> Any:
        import libreyolo.postprocess.efficientdet as module

        generate = module.generate_anchors
        if anchors is not None:
            module.generate_anchors = lambda *_, **__: self.torch.from_numpy(anchors)
        try:
            heads = tuple([self.torch.as_tensor(level) for level in head] for head in outputs)
            with self.torch.inference_mode():
                found = self.model._postprocess(heads, CANDIDATE_SCORE, IOU, size, ratio=1 / scale)
        finally:
            module.generate_anchors = generate
        return self._rows(found["boxes"], found["scores"], found["classes"])

    def file(self, path: str) -> Any:
        found = self.detector(path, conf=CANDIDATE_SCORE, iou=IOU, max_det=100).boxes
        return self._rows(found.xyxy, found.conf, found.cls)

    def _rows(self, boxes: Any, scores: Any, channels: Any) -> Any:
        ids = self.category_ids[np.asarray(channels).astype(np.int64)]
        return np.concatenate((np.asarray(boxes), np.asarray(scores)[:, None], ids[:, None]), axis=1)


class LibreYoloOnnx(LibreYolo):
    """Its own ONNX file, run by its own engine: what it recommends for speed."""

    def __init__(self, model: str, size: int) -> None:
        super().__init__(model, size)
        from libreyolo import LibreYOLO

        self.detector = LibreYOLO(str(self.model.export(format="onnx", output_path=f"{model}.libreyolo.onnx")))


CONTESTANTS: dict[str, Callable[[str, int], Contestant]] = {
    "ours": Ours,
    "effdet": Effdet,
    "libreyolo": LibreYolo,
    "libreyolo-onnx": LibreYoloOnnx,
}


class Worker:
    """Answers requests: {"do": name of a method, ...} -> what it returns."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant

    def start(self) -> dict[str, Any]:
        """Return the versions; the contestant has been loaded."""
        return {"versions": self.contestant.versions}

    def timed(self, stage: str, image: str, size: Sequence[int]) -> float:
        """Return the seconds that a stage takes with an image; what comes before it is not counted."""
        one = self.contestant
        if stage == "file":
            return _seconds(partial(one.file, image))
        if stage == "pixels":
            return _seconds(partial(one.pixels, image))
        pixels, scale = one.pixels(image)
        if stage == "network":
            return _seconds(partial(one.network, pixels))
        outputs, (width, height) = one.network(pixels), size
        return _seconds(partial(one.detections, outputs, scale, (width, height), None))

    def save_pixels(self, images: Sequence[str], out: str) -> None:
        """Write the network input of every image, and the scales."""
        pixels, scales = zip(*map(self.contestant.pixels, images), strict=True)
        np.savez(out, pixels=np.concatenate(pixels), scales=scales)

    def save_outputs(self, pixels: str, out: str) -> None:
        """Write the outputs of the network on saved pixels: l0, l1, ... and d0, d1, ..."""
        every = [self.contestant.network(one[None]) for one in np.load(pixels)["pixels"]]
        levels = range(len(every[0][0]))
        heads: Any = {f"{'ld'[h]}{n}": np.concatenate([one[h][n] for one in every]) for h in (0, 1) for n in levels}
        np.savez(out, **heads)

    def save_anchors(self, out: str) -> None:
        """Write the contestant's anchors."""
        np.save(out, self.contestant.anchors())

    def found(self, outputs: str, pixels: str, sizes: Sequence[Sequence[int]], anchors: str | None) -> list[Any]:
        """Return the detections in saved outputs, with saved anchors or the contestant's own."""
        heads, scales = dict(np.load(outputs)), np.load(pixels)["scales"]
        table = None if anchors is None else np.load(anchors)
        answers = []
        for number, (width, height) in enumerate(sizes):
            levels = range(len(heads) // 2)
            logits, deltas = ([heads[f"{head}{n}"][number : number + 1] for n in levels] for head in "ld")
            rows = self.contestant.detections((logits, deltas), float(scales[number]), (width, height), table)
            answers.append(np.asarray(rows, np.float64).tolist())
        return answers

    def files(self, images: Sequence[str]) -> list[Any]:
        """Return the detections in image files, end to end."""
        return [np.asarray(self.contestant.file(image), np.float64).tolist() for image in images]


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Load the contestant, say so, and answer until there are no more requests."""
    name, model, size = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w")  # what the peers print must not come between
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker = Worker(CONTESTANTS[name](model, int(size)))
        print(json.dumps(worker.start()), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(getattr(worker, request.pop("do"))(**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
