"""TensorFlow and our reader read the checkpoints that we write: names, dtypes and values, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.writers.specs import TensorSpec
from converter.writers.tensorbundle import write_tensorbundle
from effdet_torch.errors import OutputError
from support.sources import write_checkpoint
from verify.reference.base import import_tensorflow
from verify.seeded import write_seeded_checkpoint


def arrays() -> dict[str, Any]:
    """Variables of every writable dtype, enough for several index blocks, with shared key prefixes."""
    generator = np.random.default_rng(0)
    many = {
        f"network/with/a/long/scope/{'x' * 400}_{n}": generator.normal(size=(n % 4, 3)).astype(np.float32)
        for n in range(1500)
    }
    return many | {
        "global_step": np.array(7, np.int64),
        "half": generator.normal(size=(2, 3)).astype(np.float16),
        "double": generator.normal(size=5),
        "count": np.arange(4, dtype=np.int32),
    }


def test_tensorflow_and_our_reader_read_what_we_write(tmp_path: Path) -> None:
    values = arrays()
    write_checkpoint(tmp_path / "model", values)
    reader = import_tensorflow().train.load_checkpoint(str(tmp_path))
    with TensorBundle(tmp_path / "model") as bundle:
        assert set(reader.get_variable_to_shape_map()) == set(bundle.variables) == set(values)
        for name, array in values.items():
            for found in (np.asarray(reader.get_tensor(name)), bundle.read(name)):
                assert found.dtype == array.dtype
                assert np.array_equal(found, array)


def test_a_failure_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", {"x": np.zeros(3, np.float32)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    specs = {"x": TensorSpec(np.dtype(np.float32), (3,))}
    with pytest.raises(ValueError, match="its spec is float32"):
        write_tensorbundle(tmp_path / "model", specs, [("x", np.zeros(4, np.float32))])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(OutputError, match="cannot be written"):
        write_tensorbundle(tmp_path / "absent" / "model", specs, [])


def test_seeded_checkpoints_repeat_and_differ_by_seed(tmp_path: Path) -> None:
    def data(folder: str, seed: int) -> bytes:
        prefix = write_seeded_checkpoint("lite0", tmp_path / folder, seed)
        return Path(f"{prefix}.data-00000-of-00001").read_bytes()

    first = data("a", 0)
    assert data("b", 0) == first
    assert data("c", 1) != first
