"""TensorBundles written by TensorFlow: every value equals that of TensorFlow's own reader, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.locate import open_checkpoint
from converter.readers.tensorflow.bundle_index import STORED_DTYPES
from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.source import VariableSource

tf = pytest.importorskip("tensorflow")


def save_v2(prefix: str, tensors: dict[str, Any]) -> None:
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.convert_to_tensor(value) for value in tensors.values()],
    )


def assert_equal_bits(value: np.ndarray[Any, Any], expected: Any, name: str) -> None:
    """Compare values and dtypes; bfloat16 is widened first."""
    expected = np.array(expected, object if isinstance(expected, bytes) else None)
    if expected.dtype.name == "bfloat16":
        expected = expected.astype(np.float32)
    assert (value.dtype, value.shape) == (expected.dtype, expected.shape), name
    if expected.dtype == object:
        assert value.tolist() == expected.tolist(), name
    else:
        assert value.tobytes() == expected.tobytes(), name


def assert_same_as_tensorflow(prefix: Path | str) -> VariableSource:
    oracle = tf.train.load_checkpoint(str(prefix))
    shapes, dtypes = oracle.get_variable_to_shape_map(), oracle.get_variable_to_dtype_map()
    bundle = TensorBundle(str(prefix))
    assert {name: list(info.shape) for name, info in bundle.variables.items()} == shapes
    assert {name: info.dtype for name, info in bundle.variables.items()} == {n: d.name for n, d in dtypes.items()}
    for name in shapes:
        assert_equal_bits(bundle.read(name), oracle.get_tensor(name), name)
    return bundle


def values_of(dtype: str, shape: tuple[int, ...]) -> Any:
    if dtype == "string":
        lengths = np.random.default_rng(0).integers(0, 400, shape)
        return tf.constant(np.vectorize(lambda size: bytes(range(256)) * 2 + b"x" * size, otypes=[object])(lengths))
    numbers = np.random.default_rng(0).standard_normal((*shape, 2)) * 50
    if dtype.startswith("complex"):
        return tf.constant(numbers[..., 0] + 1j * numbers[..., 1], dtype)
    return tf.cast(tf.constant(np.abs(numbers[..., 0]) if dtype.startswith("uint") else numbers[..., 0]), dtype)


@pytest.mark.parametrize("dtype", [*STORED_DTYPES, "string"])
def test_every_dtype_and_rank(tmp_path: Path, dtype: str) -> None:
    shapes = [(), (1,), (7,), (3, 3, 32, 1), (0,), (4, 0, 2), (1, 1, 1, 1, 1, 1)]
    tensors = {f"x/{place}": values_of(dtype, shape) for place, shape in enumerate(shapes) if dtype != "string"}
    if dtype == "string":
        tensors = {f"x/{place}": values_of(dtype, shape) for place, shape in enumerate(shapes) if 0 not in shape}
        tensors["empty"] = tf.zeros((3, 0), tf.string)
        tensors["empty strings"] = tf.constant([b"", b""])
    save_v2(str(tmp_path / "m"), tensors)
    assert_same_as_tensorflow(tmp_path / "m")


def test_special_numbers_and_long_strings(tmp_path: Path) -> None:
    numbers = [np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38]
    tensors = {dtype: tf.cast(tf.constant(numbers, tf.float64), dtype) for dtype in ("float16", "bfloat16", "float32")}
    tensors["int64"] = tf.constant([-(2**63), 2**63 - 1, -1])
    # A length of more than one varint byte; the numbers behind it are not aligned.
    tensors |= {"a": tf.constant([b"x" * 300_001, b""]), "b": tf.constant([1.5, 2.5])}
    save_v2(str(tmp_path / "m"), tensors)
    assert_same_as_tensorflow(tmp_path / "m")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_several_shards(tmp_path: Path, count: int) -> None:
    parts = []
    for shard in range(count):
        part = tf.raw_ops.ShardedFilename(basename=str(tmp_path / "part"), shard=shard, num_shards=count)
        rng = np.random.default_rng(shard)
        tensors = {f"shard_{shard}/{place}": rng.standard_normal((place, 5)).astype("f4") for place in range(6)}
        save_v2(part.numpy().decode(), tensors)
        parts.append(part)
    prefix = tmp_path / "model.ckpt-1"
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix))
    bundle = assert_same_as_tensorflow(prefix)
    assert len(bundle.files()) == 1 + count


def test_slices_by_hand(tmp_path: Path) -> None:
    """Columns, rows, whole axes, and starts and lengths of one, two and three bytes in ordered code."""
    wide = np.random.default_rng(0).standard_normal((3, 20_000)).astype("f4")
    extents = [(0, 60), (60, 3), (63, 8000), (8063, 200), (8263, 11_737)]
    parts = [wide[:, start : start + length] for start, length in extents]
    specs = [f"3 20000 -:{start},{length}" for start, length in extents]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        save = tf.raw_ops.SaveV2(
            prefix=str(tmp_path / "m"),
            tensor_names=["wide"] * len(parts) + ["whole", "rows", "rows"],
            shape_and_slices=[*specs, "3 20000 -:-", "3 20000 0,1:-", "3 20000 1,2:-"],
            tensors=[tf.constant(values) for values in (*parts, wide, wide[:1], wide[1:])],
        )
        session.run(save)
    bundle = assert_same_as_tensorflow(tmp_path / "m")
    for name in ("wide", "whole", "rows"):
        assert_equal_bits(bundle.read(name), wide, name)


@pytest.mark.parametrize("sharded", [False, True])
def test_partitioned_variables_of_a_tf1_saver(tmp_path: Path, sharded: bool) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for dtype in (tf.float32, tf.bfloat16, tf.int64):
            partitioner = tf.compat.v1.fixed_size_partitioner(3, axis=1)
            tf.compat.v1.get_variable(
                f"scope/{dtype.name}", (4, 10), dtype, tf.compat.v1.zeros_initializer(), partitioner=partitioner
            )
        tf.compat.v1.get_variable("scalar", initializer=3.5)
        session.run(tf.compat.v1.global_variables_initializer())
        for place, variable in enumerate(tf.compat.v1.global_variables()):
            count = int(np.prod(variable.shape))
            values = tf.reshape(tf.cast(tf.range(count) + 7 * place, variable.dtype.base_dtype), variable.shape)
            session.run(tf.compat.v1.assign(variable, values))
        saver = tf.compat.v1.train.Saver(sharded=sharded)
        prefix = saver.save(session, str(tmp_path / "model.ckpt"), global_step=5)
    bundle = assert_same_as_tensorflow(prefix)
    assert set(bundle.variables) == {"scope/float32", "scope/bfloat16", "scope/int64", "scalar"}
    assert_same_as_tensorflow(tf.train.latest_checkpoint(str(tmp_path)))
    assert open_checkpoint(tmp_path).variables == bundle.variables


def test_many_names_in_many_blocks(tmp_path: Path) -> None:
    """More than one data block: TensorFlow starts a new one every 256 KiB."""
    tensors = {f"{'scope/' * 20}{place * 7919 % 10_007}": np.float32(place) for place in range(10_000)}
    save_v2(str(tmp_path / "m"), tensors)
    bundle = open_checkpoint(tmp_path / "m")
    assert Path(f"{tmp_path / 'm'}.index").stat().st_size > 1 << 18
    oracle = tf.train.load_checkpoint(str(tmp_path / "m"))
    assert set(bundle.variables) == set(oracle.get_variable_to_shape_map())
    assert all(bundle.read(name) == value for name, value in tensors.items())


def test_quantised_numbers_are_listed_and_refused(tmp_path: Path) -> None:
    save_v2(str(tmp_path / "m"), {"q": tf.bitcast(tf.constant([1, 2], tf.int8), tf.qint8), "x": tf.constant(1.0)})
    bundle = open_checkpoint(tmp_path / "m")
    assert bundle.variables["q"].dtype == "qint8"
    with pytest.raises(UnsupportedSourceError, match="q: values of dtype qint8"):
        bundle.read("q")
    assert bundle.read("x") == 1.0


def test_v1_checkpoint_is_named(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("x", initializer=tf.random.normal((50, 50)))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tf.compat.v1.logging, "warning", lambda *_: None)
            prefix = saver.save(session, str(tmp_path / "model.ckpt"))
    with pytest.raises(UnsupportedSourceError, match="this is a TensorFlow V1 checkpoint"):
        open_checkpoint(prefix)


@pytest.mark.parametrize("place", ["model.ckpt-780", "tf2_object_checkpoint/model"])
def test_trained_checkpoint(shared: Path, place: str) -> None:
    bundle = assert_same_as_tensorflow(shared / "trained_d0_256" / place)
    assert len(bundle.variables) > 700


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Negative control: one bit of one value, in the data and then in the expectation."""
    save_v2(str(tmp_path / "m"), {"x": tf.constant([1.0, 2.0])})
    value = open_checkpoint(tmp_path / "m").read("x")
    with pytest.raises(AssertionError):
        assert_equal_bits(value, np.array([1.0, np.nextafter(np.float32(2), np.float32(3))], np.float32), "x")
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    with pytest.raises(CorruptFileError, match="x: the values do not match their checksum"):
        open_checkpoint(tmp_path / "m").read("x")
