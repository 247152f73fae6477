"""What a path is: a source that can be read, or a known file of another kind. Contents decide, names only help.

A path may be several things. A folder with a checkpoint is that checkpoint, whatever else is in it; a file in the
`variables` folder of a SavedModel is that SavedModel. `docs/sources.md` lists all rules.

To read another of these formats, add its reader to `READERS` in `locate.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converter.errors import CorruptFileError, MissingFileError
from converter.formats.leveldb_table import TABLE_MAGIC
from converter.formats.protobuf import read_varint
from effdet_torch.untrusted.files import MAX_MODEL_BYTES, require_regular

STATE_FILE = "checkpoint"
VARIABLES = "variables"  # folder and prefix of the bundle in a SavedModel
SAVED_MODEL_FILE = "saved_model.pb"
# Of a folder as Hugging Face's tools write it, best first; the index lists the files of a model in several pieces.
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
PYTORCH_SUFFIXES = (
    ".pth",
    ".pt",
    ".pt2",
    ".torchscript",
    ".bin",
    ".ckpt",
)  # of archives that do not begin with their pickle
_INDEX_SUFFIX = ".index.json"
_HEAD_BYTES = 1024
_EXPORTED = "Exported weights may be folded or quantised: pass the training checkpoint instead."
_RUN = "effdet-detect and effdet-verify take one that effdet-export wrote, as MODEL; else pass the training checkpoint."
_STATE_DICT = "Pass a state_dict with the keys of the effdet package."
_DOWNLOAD = "Check the address and download the file again."
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Format:
    """A kind of file or folder: its name in words, and what to do where it cannot be read."""

    name: str
    next_step: str


CHECKPOINT_PREFIX = Format("a TensorFlow V2 checkpoint", "Pass its folder, prefix or .index file.")
CHECKPOINT_FOLDER = Format("a checkpoint folder", "Pass the prefix of one checkpoint inside.")
EXPORTED_FOLDER = Format(
    "a folder of the TF Object Detection API with the folder checkpoint/", "Pass the folder checkpoint/ inside."
)
CHECKPOINT_STATE = Format("the state file of a checkpoint folder", "Pass the folder.")
GZIP = Format("a gzip archive", "Unpack it and pass the checkpoint inside.")
SAVED_MODEL = Format("a SavedModel", "Pass the checkpoint that it was exported from.")
V1_CHECKPOINT = Format(
    "a TensorFlow V1 checkpoint", "Load it in TensorFlow and save it with tf.compat.v1.train.Saver (version V2)."
)
INDEX_WITHOUT_SUFFIX = Format("a checkpoint's index without its suffix", "Rename it to end in .index.")
HDF5 = Format("an HDF5 file (Keras weights)", "Pass the TensorFlow checkpoint of the same model.")
KERAS_3 = Format(
    "a Keras 3 model archive (.keras), which does not store variable names",
    "Save the model as .h5 with tf-keras (Keras 2), or pass its checkpoint.",
)
FROZEN_GRAPH = Format("a frozen graph", _EXPORTED)
TFLITE = Format("a TensorFlow Lite model", _EXPORTED)
ONNX = Format(
    "an ONNX model",
    _RUN,
)
OPENVINO = Format("an OpenVINO model", _RUN)
SAFETENSORS = Format("a safetensors file", _STATE_DICT)
PYTORCH_ZIP = Format("a PyTorch file", _STATE_DICT)
PICKLE = Format("a pickle, probably an old PyTorch file", _STATE_DICT)
MODEL_FOLDER = Format("a folder with a PyTorch model", "Pass the file inside.")
MODEL_IN_PIECES = Format(
    f"a folder with a PyTorch model in several files ({MODEL_FILES[0]}{_INDEX_SUFFIX} lists them)",
    "Save it as one file: save_file(state_dict, ...) of safetensors, or save_pretrained with a larger max_shard_size.",
)
ZIP = Format("a zip archive", "Unpack it and pass the checkpoint inside.")
TAR = Format("an uncompressed tar archive", "Unpack it and pass the checkpoint inside.")
GIT_LFS_POINTER = Format("a git-lfs pointer instead of the file itself", "Run `git lfs pull`.")
WEB_PAGE = Format("a web page or a server's error message", _DOWNLOAD)
EMPTY = Format("an empty file", _DOWNLOAD)
EMPTY_FOLDER = Format(
    "a folder without a checkpoint", "Pass the folder with the .index file, or an .h5, .pb or PyTorch file."
)
UNKNOWN = Format("a file of unknown kind", "Pass the folder, prefix or .index file of a checkpoint.")


def recognize(path: Path) -> Format:
    """Return what a path is.

    Raises:
        MissingFileError: There is no such file, folder or checkpoint prefix.
        OSError: The file cannot be opened.
    """
    if path.is_dir():
        return _recognize_folder(path)
    if (prefix := checkpoint_prefix(path)) is not None:
        return SAVED_MODEL if saved_model_folder(prefix) else CHECKPOINT_PREFIX
    if path.suffix.startswith(".data-"):
        raise MissingFileError(f"{path.with_suffix('.index')}: no such file. Keep all files of a checkpoint together.")
    if not path.exists():
        raise MissingFileError(f"{path}: no such file, folder or checkpoint prefix.{_neighbours(path)}")
    return recognize_content(path)


def checkpoint_prefix(path: Path) -> Path | None:
    """Return the prefix of the checkpoint that a path names: as a prefix, or by its .index, .meta or .data file."""
    text = str(path)
    stem, _, suffix = text.rpartition(".")
    candidates = [text]
    if suffix in ("index", "meta") or suffix.startswith("data-"):
        candidates.append(stem)
    return next((Path(prefix) for prefix in candidates if prefix and Path(f"{prefix}.index").is_file()), None)


def recognize_content(path: Path) -> Format:
    """Return what a file is, judging by its first and last bytes.

    Raises:
        OSError: The file cannot be opened, is not a regular one, or is larger than any checkpoint.
    """
    require_regular(path, MAX_MODEL_BYTES)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, file.seek(0, 2) - len(TABLE_MAGIC)))
        tail = file.read()
        # An HDF5 file may begin with a user block, of 512 bytes times a power of two.
        is_hdf5 = any(file.seek(512 << power) and file.read(len(_HDF5)) == _HDF5 for power in range(20))
    if not head:
        return EMPTY
    if tail == TABLE_MAGIC:
        return _recognize_table(head)
    matching = (kind for kind, matches in _CONTENTS if matches(head, path.suffix.lower()))
    return next(matching, HDF5 if is_hdf5 else UNKNOWN)


def _recognize_folder(folder: Path) -> Format:
    if folder.absolute().name == VARIABLES and saved_model_folder(folder):
        return SAVED_MODEL
    if (folder / STATE_FILE).is_file() or any(list_prefixes(folder)):
        return CHECKPOINT_FOLDER
    if (folder / SAVED_MODEL_FILE).is_file():
        return SAVED_MODEL
    if any(list_prefixes(folder / STATE_FILE)):
        return EXPORTED_FOLDER
    if model_file(folder):
        return MODEL_FOLDER
    is_in_pieces = any((folder / f"{name}{_INDEX_SUFFIX}").is_file() for name in MODEL_FILES)
    return MODEL_IN_PIECES if is_in_pieces else EMPTY_FOLDER


def model_file(folder: Path) -> Path | None:
    """Return the file of a folder with a PyTorch model; None for any other folder."""
    return next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)


def saved_model_folder(path: Path) -> Path | None:
    """Return the SavedModel that a path means: the folder, its saved_model.pb, its `variables` or a file in there."""
    path = path.absolute()
    candidates = [path]
    if path.name in (SAVED_MODEL_FILE, VARIABLES):
        candidates.append(path.parent)
    if path.parent.name == VARIABLES:
        candidates.append(path.parent.parent)
    return next((folder for folder in candidates if (folder / SAVED_MODEL_FILE).is_file()), None)


def list_prefixes(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, without the hidden files that some archives contain."""
    return sorted(path.with_suffix("") for path in folder.glob("*.index") if not path.name.startswith("."))


def _recognize_table(head: bytes) -> Format:
    """Return what a LevelDB table holds, judging by the first byte of its first value, whose key is empty."""
    try:
        _, position = read_varint(head, 2, len(head))
    except CorruptFileError:
        return UNKNOWN
    first = head[position : position + 1] if head[:2] == b"\x00\x00" else b""
    # A message (SavedTensorSlices), or a number (BundleHeaderProto).
    return {b"\x0a": V1_CHECKPOINT, b"\x08": INDEX_WITHOUT_SUFFIX}.get(first, UNKNOWN)


def _neighbours(path: Path) -> str:
    """Return a sentence with the checkpoints beside a path that does not exist."""
    names = [prefix.name for prefix in list_prefixes(path.parent)][:5]
    return f" Checkpoints in {path.parent}: {', '.join(names)}." if names else " Check the path."


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins like this is HTML or XML."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


# The first test of (first bytes, suffix) that succeeds counts.
_CONTENTS: tuple[tuple[Format, Callable[[bytes, str], bool]], ...] = (
    (GZIP, lambda head, _: head.startswith(b"\x1f\x8b")),
    (HDF5, lambda head, _: head.startswith(_HDF5)),
    (GIT_LFS_POINTER, lambda head, _: head.startswith(b"version https://git-lfs")),
    (OPENVINO, lambda head, _: is_web_page(head) and b"<net " in head),
    (WEB_PAGE, lambda head, _: is_web_page(head)),
    (PYTORCH_ZIP, lambda head, suffix: head.startswith(_ZIP) and (b"/data.pkl" in head or suffix in PYTORCH_SUFFIXES)),
    (KERAS_3, lambda head, suffix: head.startswith(_ZIP) and (suffix == ".keras" or b"metadata.json" in head)),
    (ZIP, lambda head, _: head.startswith(_ZIP)),
    (SAFETENSORS, lambda head, suffix: head[8:9] == b"{" and (suffix == ".safetensors" or head[9:10] == b'"')),
    (PICKLE, lambda head, _: head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")),
    (TFLITE, lambda head, suffix: head[4:8] == b"TFL3" or suffix == ".tflite"),
    (TAR, lambda head, _: head[257:262] == b"ustar"),
    (CHECKPOINT_STATE, lambda head, _: b"model_checkpoint_path" in head),
    (SAVED_MODEL, lambda head, suffix: suffix == ".pb" and head.startswith(b"\x08\x01\x12")),  # schema 1, meta graphs
    (ONNX, lambda head, suffix: suffix == ".onnx" and head.startswith(b"\x08")),
    (FROZEN_GRAPH, lambda head, suffix: suffix == ".pb" and head.startswith(b"\x0a")),
)
