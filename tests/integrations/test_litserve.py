"""docs/examples/litserve_detector.py: a real server answers a real request with the detections of a `Predictor`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from effdet_torch import Predictor, create_model, save_model

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "litserve_detector.py"
SCORE = 0.05

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(find_spec("litserve") is None, reason="litserve is not installed (make peers)"),
]


@contextlib.contextmanager
def server(model: Path, log: Path) -> Iterator[str]:
    """Run the example, and give its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, EXAMPLE, model, "--port", port, "--score", SCORE]
    with log.open("w") as output:
        process = subprocess.Popen([*map(str, words)], stdout=output, stderr=output, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{address}/health", timeout=5).ok:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_request_gives_the_detections_of_the_predictor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("d0", num_classes=3, image_size=128, label_map={1: "cat", 2: "dog", 3: "bird"})
    with torch.no_grad():
        model.class_net.predict.conv_pw.weight.normal_()
        model.class_net.predict.conv_pw.bias.zero_()
    save_model(model, tmp_path / "model.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "image.png").read_bytes()[:500])
    (expected,) = Predictor(tmp_path / "model.pth", score_threshold=SCORE)([tmp_path / "image.png"])
    assert len(expected)

    with server(tmp_path / "model.pth", tmp_path / "log.txt") as address:

        def post(**files: str) -> requests.Response:
            opened = {field: (name, (tmp_path / name).read_bytes()) for field, name in files.items()}
            return requests.post(f"{address}/predict", files=opened, timeout=60)

        answer = post(image="image.png")
        damaged, nameless = post(image="damaged.png"), post(picture="image.png")
        text = requests.post(f"{address}/predict", json={"image": "photo.jpg"}, timeout=60)
    assert answer.status_code == 200, answer.text
    found = answer.json()["detections"]
    assert [one["name"] for one in found] == list(expected.names)
    np.testing.assert_allclose([one["score"] for one in found], expected.scores, rtol=1e-6)
    np.testing.assert_allclose([one["box_xyxy"] for one in found], expected.boxes_xyxy, rtol=1e-6)
    refused = [response.status_code for response in (damaged, nameless, text)]  # negative controls
    assert refused == [400, 422, 422], (damaged.text, nameless.text, text.text)
    assert str(tmp_path) not in damaged.text
