"""benchmarks.peers: what the bounds say, and a short run beside the `effdet` package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.tables import bounds, markdown

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"pixels": 1.0, "network": 5.0, "detections": 1.0}


def results(ours: float, peer: float, start: float) -> dict[str, object]:
    """Return what is measured if a file takes these milliseconds, and our start-up these seconds."""
    rows = {"LibreYOLO, eager": peer, "ours, eager": 3 * ours, "ours, ONNX": ours}
    return {
        "setting": {"size": 256, "images": 1, "rounds": 1, "cores": 2},
        "versions": {"ours, ONNX": {"effdet-convert": "0.1.0"}},
        "milliseconds": {name: {"file": took, **STAGES} for name, took in rows.items()},
        "start_seconds": {"LibreYOLO, eager": 1.0, "ours, ONNX": start, "ours, eager": 2.0},
        "ap": dict.fromkeys(rows, 70.0),
        "exchanged": {"LibreYOLO, eager": {"nothing": 70.0, "pixels": 60.0}},
        "load": [0.0, 0.0],
    }


@pytest.mark.parametrize(
    ("measured", "met"),
    [((4.0, 10.0, 0.6), [True, True]), ((4.1, 10.0, 0.6), [False, True]), ((4.0, 10.0, 0.61), [True, False])],
)
def test_bounds(measured: tuple[float, float, float], met: list[bool]) -> None:
    found = results(*measured)
    assert [bound["met"] for bound in bounds(found)] == met
    text = "\n".join(markdown(found | {"bounds": list(bounds(found))}))
    assert text.count("| yes |") == met.count(True)
    assert text.count("| NO |") == met.count(False)
    assert "| pixels | 60.00 | -10.00 |" in text


@pytest.mark.slow
def test_a_short_run(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    options = ["--only", "effdet", "--images", "3", "--rounds", "1", "--starts", "1", "--json", str(out)]
    words = [sys.executable, "-m", "benchmarks.peers", *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.is_file(), done.stderr
    found = json.loads(out.read_text())
    assert done.returncode == (not all(bound["met"] for bound in found["bounds"]))
    assert set(found["milliseconds"]) == {"effdet, eager", "ours, eager", "ours, ONNX", "ours, OpenVINO"}
    exchanged = found["exchanged"]["effdet, eager"]
    assert exchanged["nothing"] == pytest.approx(found["ap"]["ours, eager"])
    assert exchanged["network"] == pytest.approx(exchanged["nothing"], abs=0.05)  # the same network
    assert abs(exchanged["pixels"] - exchanged["nothing"]) > 1  # negative control: other pixels are noticed
