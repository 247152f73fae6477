"""Damaged .tflite files: one clear error or a readable result; never a hang, a crash or gigabytes.

The tables of a file are a few thousandths of it, and most damage would hit numbers, which have no checksum: so the
constants stay as they are, and only what surrounds them is damaged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.locate import open_checkpoint
from effdet_torch.errors import EffdetError
from support.damage import MANY, SECONDS_PER_FILE, attack, main, run_apart

FEW = 100
TABLES_BYTES = 1 << 16  # at the end of a file: Python's builder writes constants first


def write(folder: Path) -> Path:
    """Write a file in two parts: the tables, to be damaged, and what stands in front of them."""
    # Late: what is damaged is read in a process without these libraries, whose memory is limited.
    from support.sources import plan_of, seeded, small_config
    from support.tflite_files import build, fill, pack
    from support.tflite_graphs import listing_of
    from support.tflite_samples import centred_anchors

    config = small_config(image_size=64, num_classes=3)
    listing = listing_of(config, detects=True)
    data = pack(build(listing, fill(listing, seeded(plan_of(config)), centred_anchors(config))))
    (folder / "constants").write_bytes(data[:-TABLES_BYTES])
    (folder / "tables").write_bytes(data[-TABLES_BYTES:])
    return folder / "tables"


def attempt(target: Path) -> str:
    """Put a whole file together, open it and read a part; return what came of it."""
    path = target.with_name("m.tflite")
    path.write_bytes(target.with_name("constants").read_bytes() + target.read_bytes())
    try:
        with open_checkpoint(path) as source:
            for variable in list(source.variables)[::40]:
                source.read(variable)
    except EffdetError as error:
        text = str(error)
        return type(error).__name__ if str(path) in text and "\n" not in text else f"no file named: {text}"
    return "read"


def work(target: str, count: str) -> dict[str, Any]:
    return attack(Path(target), int(count), attempt)


def check(tmp_path: Path, count: int) -> None:
    report = run_apart(__file__, write(tmp_path), count, seconds=60 + count * 0.3)
    results = report["results"]
    assert sum(results.values()) == count
    assert set(results) <= {"read", "CorruptFileError", "UnsupportedSourceError"}
    assert report["slowest"] < SECONDS_PER_FILE
    assert results["CorruptFileError"] > count // 10  # the damage does arrive
    assert results["read"] > count // 20  # as does what is left of the file


def test_some_damage(tmp_path: Path) -> None:
    check(tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_much_damage(tmp_path: Path) -> None:
    check(tmp_path, MANY)


if __name__ == "__main__":
    main(work)
