"""What a path is: a source that can be read, or which other known thing. Contents decide, names only help.

Where a path could be several things: a folder with a checkpoint is that checkpoint, whatever else lies in it; what lies
in the `variables` folder of a SavedModel is the SavedModel. `docs/sources.md` lists all rules.

To read one more format, add its reader to `READERS` in `locate.py`; it is recognised here already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converter.errors import CorruptFileError, MissingFileError
from converter.formats.leveldb_table import TABLE_MAGIC
from converter.formats.protobuf import read_varint

STATE_FILE = "checkpoint"
VARIABLES = "variables"  # folder and prefix of the bundle in a SavedModel
SAVED_MODEL_FILE = "saved_model.pb"
_HEAD_BYTES = 1024
_KERAS_2 = "Save the model with tf-keras (Keras 2) as .h5, or give its checkpoint."
_EXPORTED = "Exported weights may be folded or quantised: give the training checkpoint instead."
_STATE_DICT = "Give a state_dict with the keys of the effdet package."
_DOWNLOAD = "Download the file again and check the address."


@dataclass(frozen=True)
class Format:
    """A kind of file or folder: its name in words, and what its owner can do where it cannot be read."""

    name: str
    next_step: str


CHECKPOINT_PREFIX = Format("a TensorFlow V2 checkpoint", "Name its folder, prefix or .index file.")
CHECKPOINT_FOLDER = Format("a checkpoint folder", "Name the prefix of one checkpoint inside.")
CHECKPOINT_STATE = Format("the state file of a checkpoint folder", "Name the folder.")
GZIP = Format("a gzip archive", "Unpack it and name the checkpoint inside.")
SAVED_MODEL = Format("a SavedModel", "Give the checkpoint that it was exported from.")
V1_CHECKPOINT = Format(
    "a TensorFlow V1 checkpoint", "Load it in TensorFlow and save it with tf.compat.v1.train.Saver (version V2)."
)
INDEX_WITHOUT_SUFFIX = Format("a checkpoint's index without its suffix", "Rename it to end in .index.")
HDF5 = Format("an HDF5 file (Keras weights)", "Give the TensorFlow checkpoint of the same model.")
KERAS_3 = Format("a Keras 3 model archive (.keras), which holds no names of variables", _KERAS_2)
FROZEN_GRAPH = Format("a frozen graph", _EXPORTED)
TFLITE = Format("a TensorFlow Lite model", _EXPORTED)
ONNX = Format("an ONNX model", _EXPORTED)
SAFETENSORS = Format("a safetensors file", _STATE_DICT)
PYTORCH_ZIP = Format("a PyTorch file", _STATE_DICT)
PICKLE = Format("a pickle, probably an old PyTorch file", _STATE_DICT)
ZIP = Format("a zip archive", "Unpack it and name the checkpoint inside.")
TAR = Format("an uncompressed tar archive", "Unpack it and name the checkpoint inside.")
GIT_LFS_POINTER = Format("a pointer of git-lfs, not the file itself", "Run `git lfs pull`.")
WEB_PAGE = Format("a web page or a server's error message", _DOWNLOAD)
EMPTY = Format("an empty file", _DOWNLOAD)
EMPTY_FOLDER = Format("a folder without a checkpoint", "Name the folder with the .index file, or an .h5 or .pb file.")
UNKNOWN = Format("a file of unknown kind", "Name the folder, prefix or .index file of a checkpoint.")


def recognize(path: Path) -> Format:
    """Return what a path is.

    Raises:
        MissingFileError: Nothing is there: no file, no folder, no checkpoint with this prefix.
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
    """Return the prefix of the checkpoint that a path belongs to: itself, its .index, .meta or .data file."""
    text = str(path)
    stem, _, suffix = text.rpartition(".")
    candidates = [text]
    if suffix in ("index", "meta") or suffix.startswith("data-"):
        candidates.append(stem)
    return next((Path(prefix) for prefix in candidates if prefix and Path(f"{prefix}.index").is_file()), None)


def recognize_content(path: Path) -> Format:
    """Return what a file is by its first and last bytes.

    Raises:
        OSError: The file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, file.seek(0, 2) - len(TABLE_MAGIC)))
        tail = file.read()
    if not head:
        return EMPTY
    if tail == TABLE_MAGIC:
        return _recognize_table(head)
    return next((kind for kind, matches in _CONTENTS if matches(head, path.suffix.lower())), UNKNOWN)


def _recognize_folder(folder: Path) -> Format:
    if folder.absolute().name == VARIABLES and saved_model_folder(folder):
        return SAVED_MODEL
    if (folder / STATE_FILE).is_file() or any(list_prefixes(folder)):
        return CHECKPOINT_FOLDER
    return SAVED_MODEL if (folder / SAVED_MODEL_FILE).is_file() else EMPTY_FOLDER


def saved_model_folder(path: Path) -> Path | None:
    """Return the SavedModel that a path means: the folder, its saved_model.pb, its `variables`, what lies in there."""
    path = path.absolute()
    candidates = [path]
    if path.name in (SAVED_MODEL_FILE, VARIABLES):
        candidates.append(path.parent)
    if path.parent.name == VARIABLES:
        candidates.append(path.parent.parent)
    return next((folder for folder in candidates if (folder / SAVED_MODEL_FILE).is_file()), None)


def list_prefixes(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, without the hidden files that some archives bring along."""
    return sorted(path.with_suffix("") for path in folder.glob("*.index") if not path.name.startswith("."))


def _recognize_table(head: bytes) -> Format:
    """Tell what a LevelDB table holds from the tag that begins the value of its first key, which is ""."""
    try:
        _, position = read_varint(head, 2, len(head))
    except CorruptFileError:
        return UNKNOWN
    return _TABLES.get((head[:2], head[position : position + 1]), UNKNOWN)


def _neighbours(path: Path) -> str:
    """Return a sentence with the checkpoints beside a path that does not exist."""
    names = [prefix.name for prefix in list_prefixes(path.parent)][:5]
    return f" Checkpoints in {path.parent}: {', '.join(names)}." if names else " Check the path."


def _begins(*beginnings: bytes) -> Callable[[bytes, str], bool]:
    return lambda head, _: head.startswith(beginnings)


def is_web_page(head: bytes, _: str = "") -> bool:
    """Tell whether a file that begins like this is HTML or XML."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def _is_safetensors(head: bytes, suffix: str) -> bool:
    return head[8:9] == b"{" and (suffix == ".safetensors" or head[9:10] == b'"')


def _is_saved_model(head: bytes, suffix: str) -> bool:
    return suffix == ".pb" and head.startswith(b"\x08\x01\x12")  # schema version 1, meta graphs


def _is_keras_3(head: bytes, suffix: str) -> bool:
    return head.startswith(b"PK\x03\x04") and (suffix == ".keras" or b"metadata.json" in head)


def _is_pytorch_zip(head: bytes, suffix: str) -> bool:
    return head.startswith(b"PK\x03\x04") and (b"/data.pkl" in head or suffix in (".pth", ".pt"))


# A key without bytes, then the value: a message (SavedTensorSlices) or a number (BundleHeaderProto).
_TABLES = {(b"\x00\x00", b"\x0a"): V1_CHECKPOINT, (b"\x00\x00", b"\x08"): INDEX_WITHOUT_SUFFIX}
# The first that fits counts.
_CONTENTS: tuple[tuple[Format, Callable[[bytes, str], bool]], ...] = (
    (GZIP, _begins(b"\x1f\x8b")),
    (HDF5, _begins(b"\x89HDF\r\n\x1a\n")),
    (GIT_LFS_POINTER, _begins(b"version https://git-lfs")),
    (WEB_PAGE, is_web_page),
    (PYTORCH_ZIP, _is_pytorch_zip),
    (KERAS_3, _is_keras_3),
    (ZIP, _begins(b"PK\x03\x04")),
    (SAFETENSORS, _is_safetensors),
    (PICKLE, _begins(*(bytes([0x80, protocol]) for protocol in range(2, 6)))),
    (TFLITE, lambda head, suffix: head[4:8] == b"TFL3" or suffix == ".tflite"),
    (TAR, lambda head, _: head[257:262] == b"ustar"),
    (CHECKPOINT_STATE, lambda head, _: b"model_checkpoint_path" in head),
    (SAVED_MODEL, _is_saved_model),
    (ONNX, lambda head, suffix: suffix == ".onnx" and head.startswith(b"\x08")),
    (FROZEN_GRAPH, lambda head, suffix: suffix == ".pb" and head.startswith(b"\x0a")),
)
