"""From what the user named (folder, prefix, one of its files, archive) to the open checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import CorruptFileError, MissingFileError, SourceError, UnsupportedSourceError
from converter.readers import recognize as formats
from converter.readers.base import VariableSource
from converter.readers.recognize import Format, checkpoint_prefix, is_inside_saved_model, list_prefixes, recognize
from converter.readers.tensorbundle import TensorBundle

if TYPE_CHECKING:
    from converter.readers.archive import ExtractedArchive

_STATE_BYTES = 1 << 20
_STATE_LINE = re.compile(rb"""^\s*model_checkpoint_path\s*:\s*(["'])((?:\\.|(?!\1)[^\\\n])+)\1""", re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)")
_ESCAPED_LETTERS = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


def open_checkpoint(path: Path | str) -> VariableSource:
    """Open the checkpoint that a path names; use it as a context manager.

    Args:
        path: a folder with a `checkpoint` file or .index files, a prefix, one file of a checkpoint, or an archive
            (.tar.gz, .tgz) of one of these.

    Raises:
        SourceError: The file cannot be opened.
        MissingFileError: Nothing is there, or a folder's `checkpoint` file names a checkpoint that is not there.
        CorruptFileError: The index or the archive is damaged.
        UnsupportedSourceError: It is something else; the text says what.
    """
    path = Path(path)
    try:
        found = recognize(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror or error}.") from error
    return _reader(found, path)(path)


def _reader(found: Format, path: Path) -> Callable[[Path], VariableSource]:
    if found not in READERS:
        raise UnsupportedSourceError(
            f"{path}: this is {found.name}; expected a TensorFlow V2 checkpoint (PREFIX.index with PREFIX.data-*), its "
            f"folder or a .tar.gz of it. {found.next_step}"
        )
    return READERS[found]


def _open_prefix(path: Path) -> VariableSource:
    return _open_bundle(checkpoint_prefix(path) or path, path)


def _open_folder(path: Path) -> VariableSource:
    return _open_bundle(_prefix_in_folder(path), path)


def _open_state(path: Path) -> VariableSource:
    return _open_bundle(_prefix_of_state(path), path)


def _open_archive(path: Path) -> VariableSource:
    from converter.readers.archive import ExtractedArchive  # late: tarfile and all compressions

    archive = ExtractedArchive(path)
    try:
        folder = _folder_in_archive(archive)
        return _open_bundle(_prefix_in_folder(folder, archive), path, archive)
    except BaseException:
        archive.close()
        raise


# One line per format that can be read.
READERS: Mapping[Format, Callable[[Path], VariableSource]] = {
    formats.CHECKPOINT_PREFIX: _open_prefix,
    formats.CHECKPOINT_FOLDER: _open_folder,
    formats.CHECKPOINT_STATE: _open_state,
    formats.GZIP: _open_archive,
}


def _open_bundle(prefix: Path, path: Path, archive: ExtractedArchive | None = None) -> TensorBundle:
    """Open a bundle, unless its index is a file of another kind that was given the name of one."""
    index = Path(f"{prefix}.index")
    content = formats.recognize_content(index)
    if content not in (formats.INDEX_WITHOUT_SUFFIX, formats.UNKNOWN):
        shown = archive.describe(index) if archive else str(index)
        raise UnsupportedSourceError(f"{shown}: this is {content.name}; expected an index. {content.next_step}")
    return TensorBundle(prefix, path=path, archive=archive)


def _folder_in_archive(archive: ExtractedArchive) -> Path:
    """Return the folder of an archive that holds checkpoints; it may have folders with others inside."""
    folders = {
        file.parent
        for file in archive.folder.rglob("*")
        if file.name == formats.STATE_FILE or (file.suffix == ".index" and not is_inside_saved_model(file))
    }
    top = min(folders, key=lambda folder: len(folder.parts), default=archive.folder)
    if folders and all(top in (folder, *folder.parents) for folder in folders):
        return top
    if folders:
        names = ", ".join(sorted(str(folder.relative_to(archive.folder)) for folder in folders)[:5])
        raise UnsupportedSourceError(
            f"{archive.path}: checkpoints in {len(folders)} folders ({names}); expected one. Unpack it and name one."
        )
    if any(archive.folder.rglob(formats.SAVED_MODEL_FILE)):
        _reader(formats.SAVED_MODEL, archive.path)
    raise UnsupportedSourceError(
        f"{archive.path}: an archive without a checkpoint (it holds {', '.join(archive.skipped) or 'no files'}); "
        "expected PREFIX.index and PREFIX.data-*. Check that it is the right download."
    )


def _prefix_in_folder(folder: Path, archive: ExtractedArchive | None = None) -> Path:
    """Return the checkpoint that a folder's state file names, or the newest where there is no such file."""
    state = folder / formats.STATE_FILE
    return _prefix_of_state(state, archive) if state.is_file() else max(list_prefixes(folder), key=_age)


def _prefix_of_state(state: Path, archive: ExtractedArchive | None = None) -> Path:
    """Return the checkpoint that a state file names; in an archive it must lie inside."""
    shown = archive.describe(state) if archive else str(state)
    names = ", ".join(prefix.name for prefix in list_prefixes(state.parent)[-5:]) or "no checkpoint"
    next_step = f"The folder holds {names}: name a prefix."
    named = _read_state(state)
    if named is None:
        raise CorruptFileError(f'{shown}: expected a line model_checkpoint_path: "PREFIX". {next_step}')
    # Written on another machine, it may be an absolute path that exists no more, with either separator.
    for candidate in (state.parent / named, state.parent / re.split(r"[\\/]", named)[-1]):
        if _is_usable(candidate, archive):
            return candidate
    raise MissingFileError(f"{shown}: it names the checkpoint {named[:200]!r}, which is not there. {next_step}")


def _is_usable(prefix: Path, archive: ExtractedArchive | None) -> bool:
    try:
        is_allowed = archive is None or prefix.resolve().is_relative_to(archive.folder.resolve())
        return is_allowed and Path(f"{prefix}.index").is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _read_state(state: Path) -> str | None:
    """Return `model_checkpoint_path` of a CheckpointState in protocol-buffer text format."""
    with state.open("rb") as file:
        line = _STATE_LINE.search(file.read(_STATE_BYTES))
    return _ESCAPE.sub(_unescape, line[2]).decode(errors="replace") if line else None


def _unescape(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    if code[:1].isdigit():
        return bytes([int(code, 8) & 0xFF])
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    return bytes([_ESCAPED_LETTERS.get(code[0], code[0])])


def _age(prefix: Path) -> tuple[int, float]:
    """Return (global step in the name, time of the last change), which sorts the newest last."""
    step = re.search(r"-(\d+)$", prefix.name)
    return int(step[1]) if step else -1, Path(f"{prefix}.index").stat().st_mtime
