"""Open what the user named: a folder, prefix, file, archive, official name or URL."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import CorruptFileError, MissingFileError, SourceError, UnsupportedSourceError
from converter.formats import file_kind as formats
from converter.formats.file_kind import Format, checkpoint_prefix, list_prefixes, recognize, saved_model_folder
from converter.readers.tensorflow.checkpoint_state import read_state
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle
from converter.source import VariableSource
from effdet_torch.errors import listed
from effdet_torch.untrusted.files import reason_of

if TYPE_CHECKING:
    from converter.formats.archive import ExtractedArchive
    from effdet_torch.terminal.bar import Progress

LOG = logging.getLogger("effdet")
OFFICIAL_TABLE = "table of official files"


def open_checkpoint(path: Path | str, progress: Progress | None = None) -> VariableSource:
    """Open the source given by a path, an official name or a URL; use it as a context manager.

    Args:
        path: a folder with a `checkpoint` file or .index files, a prefix, one file of a checkpoint, a SavedModel, an
            archive (.tar.gz, .tgz) of one of these, a Keras .h5 file, a frozen .pb graph, a .tflite file, a PyTorch
            file or the folder of one (`model.safetensors`). If no such file exists: the name of an official file
            ("d0", "d4-640"), or an http or https URL.
        progress: called while a file is downloaded.

    Raises:
        ConfigError: It looks like an official name or a URL, but is not a valid one.
        SourceError: The file cannot be opened or downloaded.
        MissingFileError: The path does not exist, or a folder's `checkpoint` file names a checkpoint that does not.
        CorruptFileError: A file or the archive is damaged.
        UnsupportedSourceError: The file is of another kind, which the text names.
    """
    name, path = str(path), Path(path)
    try:
        found = recognize(path)
    except MissingFileError as error:
        if downloaded := _open_download(name, progress):
            return downloaded
        from converter.identify.official import nearest_official

        if question := nearest_official(name):
            raise MissingFileError(f"{error} It is not an official name either{question}") from error
        raise
    except OSError as error:  # also for a long URL, which no file can be called
        if "://" in name and (downloaded := _open_download(name, progress)):
            return downloaded
        raise _not_opened(path, error) from error
    if found not in READERS:
        raise UnsupportedSourceError(
            f"{path}: this is {found.name}; expected a TensorFlow checkpoint (PREFIX.index with PREFIX.data-*), its "
            f"folder, a SavedModel, a .tar.gz of these, a Keras .h5, a frozen .pb, a .tflite or a PyTorch file. "
            f"{found.next_step}"
        )
    try:
        source = READERS[found](path)
    except OSError as error:
        raise _not_opened(path, error) from error
    LOG.info("opened %s: %s, %d variables", path, found.name, len(source.variables))
    return source


def _not_opened(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{path}: cannot be opened: {reason_of(error)}.")


def _open_download(name: str, progress: Progress | None) -> VariableSource | None:
    """Open what an official name or a URL means, from the cache or the network; None if it is neither."""
    from converter.fetch.download import fetch, is_url, shown_url  # late: most sources are on the disk
    from converter.identify.official import find_official

    if official := find_official(name):
        if is_url(name) and "?" in name:  # which may ask for another revision
            path = fetch(name, progress=progress)
        else:
            path = fetch(official.url, size_bytes=official.size_bytes, sha256=official.sha256, progress=progress)
        source = _open_cached(path)
        facts = source.facts
        provenance = {**facts.provenance, "official": official.name, "url": official.url}
        given = ((OFFICIAL_TABLE, official.hparams), *facts.given)
        return source.with_facts(replace(facts, given=given, provenance=provenance))
    if not is_url(name):
        return None
    source = _open_cached(fetch(name, progress=progress))
    provenance = {**source.facts.provenance, "url": shown_url(name)}
    return source.with_facts(replace(source.facts, provenance=provenance))


def _open_cached(path: Path) -> VariableSource:
    try:
        return open_checkpoint(path)
    except CorruptFileError as error:
        raise CorruptFileError(f"{error} Delete the cached file first.") from error


def _open_saved_model(
    path: Path, folder: Path | None = None, archive: ExtractedArchive | None = None
) -> VariableSource:
    from converter.readers.tensorflow.saved_model import as_saved_model

    folder = folder or saved_model_folder(path) or path
    prefix = folder / formats.VARIABLES / formats.VARIABLES
    if not Path(f"{prefix}.index").is_file():
        raise UnsupportedSourceError(
            f"{path}: this is {formats.SAVED_MODEL.name} without variables: its folder {formats.VARIABLES} has no "
            f"{prefix.name}.index. Keep all its files together. {formats.SAVED_MODEL.next_step}"
        )
    return as_saved_model(_read_bundle(prefix, path, archive), folder)


def _open_h5(path: Path) -> VariableSource:
    from converter.readers.tensorflow.keras_h5 import KerasH5

    return KerasH5(path)


def _open_frozen_graph(path: Path) -> VariableSource:
    from converter.readers.tensorflow.graphs.frozen_graph import FrozenGraph

    return FrozenGraph(path)


def _open_tflite(path: Path) -> VariableSource:
    from converter.readers.tflite.tflite_file import TfliteFile

    return TfliteFile(path)


def _open_state_dict(path: Path, file: Path | None = None) -> VariableSource:
    from converter.readers.pytorch.state_dict import StateDict

    return StateDict(path, file)


def _open_model_folder(path: Path) -> VariableSource:
    file = formats.model_file(path) or path
    content = formats.recognize_content(file)
    if READERS.get(content) is not _open_state_dict:
        raise UnsupportedSourceError(f"{file}: this is {content.name}; expected a PyTorch model. {content.next_step}")
    return _open_state_dict(path, file)


def _open_archive(path: Path) -> VariableSource:
    from converter.formats.archive import ExtractedArchive  # late: tarfile and all compressions

    archive = ExtractedArchive(path)
    try:
        folder = _folder_in_archive(archive)
        if recognize(folder) == formats.SAVED_MODEL:
            return _open_saved_model(path, folder, archive)
        return _open_bundle(_prefix_in_folder(folder, archive), path, archive)
    except BaseException:
        archive.close()
        raise


# One line per format that can be read.
READERS: Mapping[Format, Callable[[Path], VariableSource]] = {
    formats.CHECKPOINT_PREFIX: lambda path: _open_bundle(checkpoint_prefix(path) or path, path),
    formats.CHECKPOINT_FOLDER: lambda path: _open_bundle(_prefix_in_folder(path), path),
    formats.EXPORTED_FOLDER: lambda path: _open_bundle(_prefix_in_folder(path / formats.STATE_FILE), path),
    formats.CHECKPOINT_STATE: lambda path: _open_bundle(_prefix_of_state(path), path),
    formats.SAVED_MODEL: _open_saved_model,
    formats.HDF5: _open_h5,
    formats.FROZEN_GRAPH: _open_frozen_graph,
    formats.TFLITE: _open_tflite,
    formats.PYTORCH_ZIP: _open_state_dict,
    formats.PICKLE: _open_state_dict,
    formats.SAFETENSORS: _open_state_dict,
    formats.MODEL_FOLDER: _open_model_folder,
    formats.GZIP: _open_archive,
}


def _open_bundle(prefix: Path, path: Path, archive: ExtractedArchive | None = None) -> VariableSource:
    """Open a checkpoint of TF1 or TF2."""
    bundle = _read_bundle(prefix, path, archive)
    if OBJECT_GRAPH not in bundle.variables:
        return _with_meta_graph(bundle)
    from converter.readers.tensorflow.object_checkpoint import ObjectCheckpoint

    return ObjectCheckpoint(bundle)


def _with_meta_graph(bundle: TensorBundle) -> TensorBundle:
    """Return a checkpoint that knows of the graph beside it, if there is one."""
    meta = bundle.prefix.with_name(f"{bundle.prefix.name}.meta")
    if not meta.is_file():
        return bundle
    from converter.readers.tensorflow.graphs.evidence import graph_of
    from converter.readers.tensorflow.graphs.nodes import META_GRAPH_DEF

    return bundle.with_facts(replace(bundle.facts, graph=graph_of(meta, META_GRAPH_DEF)))


def _read_bundle(prefix: Path, path: Path, archive: ExtractedArchive | None) -> TensorBundle:
    """Open a bundle, unless its index is a file of another kind with the name of one."""
    index = Path(f"{prefix}.index")
    content = formats.recognize_content(index)
    if content not in (formats.INDEX_WITHOUT_SUFFIX, formats.UNKNOWN):
        shown = archive.describe(index) if archive else str(index)
        raise UnsupportedSourceError(f"{shown}: this is {content.name}; expected an index. {content.next_step}")
    return TensorBundle(prefix, path=path, archive=archive)


def _folder_in_archive(archive: ExtractedArchive) -> Path:
    """Return the topmost folder of an archive that holds checkpoints, or a SavedModel where there are none."""
    checkpoints = {
        file.parent
        for file in archive.folder.rglob("*")
        if file.is_file()
        and (file.name == formats.STATE_FILE or (file.suffix == ".index" and not saved_model_folder(file)))
    }
    folders = checkpoints or {file.parent for file in archive.folder.rglob(formats.SAVED_MODEL_FILE)}
    top = min(folders, key=lambda folder: len(folder.parts), default=archive.folder)
    if folders and all(top in (folder, *folder.parents) for folder in folders):
        return top
    if folders:
        names = listed(sorted(str(folder.relative_to(archive.folder)) for folder in folders))
        raise UnsupportedSourceError(
            f"{archive.path}: checkpoints in {len(folders)} folders ({names}); expected one. Unpack it and pass one."
        )
    raise UnsupportedSourceError(
        f"{archive.path}: an archive without a checkpoint (it holds {', '.join(archive.skipped) or 'no files'}); "
        "expected PREFIX.index and PREFIX.data-*. Check that it is the right file."
    )


def _prefix_in_folder(folder: Path, archive: ExtractedArchive | None = None) -> Path:
    """Return the checkpoint that a folder's state file names, or the newest if there is no such file."""
    state = folder / formats.STATE_FILE
    return _prefix_of_state(state, archive) if state.is_file() else max(list_prefixes(folder), key=_age)


def _prefix_of_state(state: Path, archive: ExtractedArchive | None = None) -> Path:
    """Return the checkpoint that a state file names; in an archive it must lie inside."""
    shown = archive.describe(state) if archive else str(state)
    names = ", ".join(prefix.name for prefix in list_prefixes(state.parent)[-5:]) or "no checkpoint"
    next_step = f"The folder holds {names}: pass a prefix."
    try:
        named = read_state(state)
    except OSError as error:
        raise CorruptFileError(f"{shown} cannot be read: {reason_of(error)}. {next_step}") from error
    except ValueError as error:
        raise CorruptFileError(
            f'{shown}: expected a line model_checkpoint_path: "PREFIX"; {error}. {next_step}'
        ) from error
    # Written on another machine, it may be an absolute path that no longer exists, with either separator.
    for candidate in (state.parent / named, state.parent / re.split(r"[\\/]", named)[-1]):
        if _is_usable(candidate, archive):
            return candidate
    raise MissingFileError(f"{shown}: it names the checkpoint {named[:200]!r}, which does not exist. {next_step}")


def _is_usable(prefix: Path, archive: ExtractedArchive | None) -> bool:
    try:
        is_allowed = archive is None or prefix.resolve().is_relative_to(archive.folder.resolve())
        return is_allowed and Path(f"{prefix}.index").is_file()
    except (OSError, ValueError):  # not a possible file name
        return False


def _age(prefix: Path) -> tuple[int, float]:
    """Return (step in the name, time of the last change), which sorts the newest last."""
    step = re.search(r"-(\d+)$", prefix.name)
    return int(step[1]) if step else -1, Path(f"{prefix}.index").stat().st_mtime
