"""Damaged PyTorch files: one clear error, or values; in a ZIP archive, the right ones.

Files of PyTorch before 1.6 and safetensors have no checksums, so changed values go unnoticed there. As with the formats
of TensorFlow, every format is attacked in a separate process, with a limit on memory and time.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converter.errors import CorruptFileError
from converter.locate import open_checkpoint
from converter.readers.pytorch.state_dict import read_model_file
from converter.readers.pytorch.stored_tensor import StoredTensor
from effdet_torch.errors import EffdetError
from support.damage import MANY, QUICK, SECONDS_PER_FILE, attack, main, run_apart
from support.sources import plan_of, small_config

FORMATS = ("zip", "legacy", "safetensors")
WHOLE_MODEL = "whole model"


def write(folder: Path, kind: str) -> Path:
    """Write tensors of several dtypes, two of which share their storage, and what training saves beside them."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    path = folder / ("m.safetensors" if kind == "safetensors" else "m.pth")
    if kind == WHOLE_MODEL:  # all names and shapes, without values and checksums
        zero = torch.zeros(())
        tensors = {key: zero.expand(entry.target_shape) for key, entry in plan_of(small_config()).targets.items()}
        torch.serialization.set_crc32_options(False)
        torch.save(tensors, path)
        torch.serialization.set_crc32_options(True)
        return path
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.int64)
    tensors = OrderedDict((f"bn{n}.weight", torch.arange(n + 2).to(dtypes[n % 4])) for n in range(8))
    metadata = {"config": {"name": "d0", "aspect_ratios": [1.0, 2.0]}, "view": {"name": "ema"}}
    if kind == "safetensors":
        safetensors.save_file(tensors, path, {"effdet_convert": json.dumps(metadata)})
        return path
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors |= {"rows": base[1], "columns": base.transpose(0, 2)}
    content = {"state_dict": tensors, "metadata": metadata, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def tensors_of(content: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Yield all tensors of a file, or what can still be found of them in a damaged one."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, StoredTensor):
            yield str(key), value
        elif isinstance(value, dict) and value is not content:
            yield from ((str(name), inner) for name, inner in value.items() if isinstance(inner, StoredTensor))


def values_of(path: Path) -> dict[str, bytes]:
    return {key: tensor.array().tobytes() for key, tensor in tensors_of(read_model_file(path)[0])}


def variables_of(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as source:
        return dict.fromkeys(source.variables, b"")


def work(path: str, kind: str, count: str) -> dict[str, Any]:
    """Damage a file again and again, and read it; return the outcomes."""
    read = variables_of if kind == WHOLE_MODEL else values_of
    right = read(Path(path))
    assert right

    def attempt(target: Path) -> str:
        try:
            return "right" if read(target) == right else "other"
        except EffdetError as error:
            return type(error).__name__ if len(str(error)) < 10_000 else "an endless text"

    return attack(Path(path), int(count), attempt)


SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=SLOW)])
@pytest.mark.parametrize("kind", [*FORMATS, WHOLE_MODEL])
def test_damage(tmp_path: Path, kind: str, count: int) -> None:
    """In a whole model names and shapes have no checksums, so damage reaches the recognition and the accounting."""
    count = min(count, 100) if kind == WHOLE_MODEL and count == QUICK else count
    report = run_apart(__file__, write(tmp_path, kind), kind, count, seconds=60 + count * 0.5)
    results = Counter(report["results"])
    print(kind, dict(results), f"slowest {report['slowest']:.2f} s")
    assert results.total() == count
    assert set(results) <= {"right", "other", "CorruptFileError", "UnsupportedSourceError", "AccountingError"}
    assert report["slowest"] < SECONDS_PER_FILE
    assert results["CorruptFileError"] > count // 10  # the damage does arrive
    assert results["right"] > count // 50  # as does what is left of the file
    assert (results["other"] == 0) == (kind == "zip") or kind == WHOLE_MODEL
    assert results["AccountingError"] or kind != WHOLE_MODEL


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    whole = path.read_bytes()
    right = values_of(path)
    for size in range(8 if kind == "safetensors" else 2, len(whole), 13):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFileError, match=rf"{path.name}: damaged "):
            values_of(path)
    path.write_bytes(whole)
    assert values_of(path) == right


if __name__ == "__main__":
    main(work)
