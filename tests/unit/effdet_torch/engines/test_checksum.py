"""A byte that flips in an exported file is noticed, if the check is asked for."""

from __future__ import annotations

import itertools
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from effdet_torch import Predictor
from effdet_torch.engines.checksum import ARCHIVES, CONTENT_CHECKSUM, STATED, UNSEALED, require_intact, seal
from effdet_torch.engines.table import open_engine
from effdet_torch.errors import ModelFileError, UsageError
from effdet_torch.export.export import export_model
from support.exports import SIZE, export_sample
from support.quick import mostly_slow

NEEDED = {
    ".onnx": "onnxscript",
    ".xml": "openvino",
    ".tflite": "ai_edge_litert",
    ".pt2": "torch",
    ".torchscript": "torch",
}
CENTRAL_RECORD = b"PK\x01\x02"
MESSAGE = "is damaged, or was changed since it was exported"


@pytest.fixture(scope="module", params=mostly_slow(NEEDED, (".onnx", ".tflite", ".torchscript")))
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec(NEEDED[request.param]) is None:
        pytest.skip(f"{NEEDED[request.param]} is not installed")
    path = tmp_path_factory.mktemp("checksum") / f"sample{request.param}"
    export_model(export_sample(), path, nms="none", check=False)
    return path


def test_a_flipped_byte_is_noticed(file: Path, tmp_path: Path) -> None:
    require_intact(file)
    content = file.read_bytes()
    damaged = tmp_path / file.name
    # Of an archive, the padding between its members is not covered; nothing reads it.
    places = np.random.default_rng(0).integers(0, len(content), 12)
    noticed = 0
    for place in places.tolist():
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with suppress(ModelFileError):
            require_intact(damaged)
            continue
        noticed += 1
    assert noticed >= len(places) - (2 if file.suffix in (".pt2", ".torchscript") else 0)
    for other in (content[:-1], content + b"0", b"0" + content):
        damaged.write_bytes(other)
        with pytest.raises(ModelFileError, match=MESSAGE):
            require_intact(damaged)


def test_damage_of_the_list_of_contents_ends_in_no_traceback(file: Path, tmp_path: Path) -> None:
    """Flags of encryption and compression, names, offsets: each has an error of its own."""
    if file.suffix not in ARCHIVES:
        pytest.skip("not an archive")
    content, damaged = file.read_bytes(), tmp_path / file.name
    start = content.rfind(CENTRAL_RECORD)
    noticed = set()
    for place, bit in itertools.product(range(50), (0, 3)):
        changed = bytearray(content)
        changed[start + place] ^= 1 << bit
        damaged.write_bytes(changed)
        try:
            require_intact(damaged)
        except ModelFileError:
            noticed.add(place)
    # Versions, dates, sizes and attributes, which do not change what is read, are not covered.
    assert noticed >= {*range(4), 8, *range(10, 12), *range(16, 20), *range(42, 50)}


def test_damage_that_hides_the_checksum(file: Path, tmp_path: Path) -> None:
    if file.suffix in ARCHIVES:
        pytest.skip("its checksums are not in the document")
    content, damaged = file.read_bytes(), tmp_path / file.name
    key = content.find(CONTENT_CHECKSUM.encode())
    assert STATED.search(content)
    digits = [found.start(1) for found in STATED.finditer(content)]
    for other in (b"", content[: key + 3], content.replace(b"content_crc32", b"contenT_crc32")):
        damaged.write_bytes(other)
        with pytest.raises(ModelFileError, match="is damaged, or was written by an earlier version: it states no"):
            require_intact(damaged)
    changed = bytearray(content)
    for place in digits:
        changed[place] = ord("g")
    damaged.write_bytes(changed)
    with pytest.raises(ModelFileError, match="is damaged, or was written by an earlier version"):
        require_intact(damaged)


def test_the_predictor_looks_where_it_is_told_to(file: Path, tmp_path: Path) -> None:
    if file.suffix in (".xml", ".pt2"):
        pytest.skip("its weights are checked whenever it is loaded, or by the reader of the archive")
    content = bytearray(file.read_bytes())
    kernel = export_sample().class_net.predict.conv_pw.weight.detach().numpy()  # type: ignore[union-attr]
    place = content.find(kernel.reshape(len(kernel), -1)[0].tobytes())
    assert place > 0
    content[place + 2] ^= 0x40  # of the mantissa of a weight
    damaged = tmp_path / file.name
    damaged.write_bytes(content)
    Predictor(file, check_values=True)
    with pytest.raises(ModelFileError, match=MESSAGE):
        Predictor(damaged, check_values=True)
    pixels = np.random.default_rng(0).standard_normal((1, 3, *SIZE), np.float32)
    found, expected = (open_engine(path).run(pixels) for path in (damaged, file))
    assert all(np.isfinite(output).all() for output in found)  # negative control: it looks right
    assert not np.array_equal(found[0], expected[0])


def test_a_file_without_a_checksum(file: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pte"
    plain.write_bytes(b"content")
    with pytest.raises(UsageError, match="has no checksum of its content; leave out check_values"):
        require_intact(plain)
    with pytest.raises(ModelFileError, match="cannot read the model file"):
        require_intact(tmp_path / "missing.onnx")
    if file.suffix not in (".pt2", ".torchscript"):
        assert open_engine(file).metadata["content_crc32"] != UNSEALED
        content = file.read_bytes()
        seal(file)  # it is sealed
        assert file.read_bytes() == content
