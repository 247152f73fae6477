"""Models on the Hugging Face Hub by their names: `hf:user/repository`, or `hf:user/repository@revision`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from effdet_torch.errors import ModelFileError, UsageError, install_command
from effdet_torch.untrusted.files import MAX_MODEL_BYTES

PREFIX = "hf:"
WEIGHTS = "model.safetensors"  # of a repository
NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Errors of huggingface_hub -> what is wrong, and what to do; the first that fits, so special ones come first.
REASONS = {
    "GatedRepoError": "is gated: accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN",
    "RepositoryNotFoundError": "does not exist, or is private: check the name, and log in with `hf auth login`",
    "RevisionNotFoundError": "has no such revision: name a branch, a tag or a whole commit",
    "LocalEntryNotFoundError": "cannot be reached, and is not in the cache: check the network and HF_HUB_OFFLINE",
    "EntryNotFoundError": f"has no {WEIGHTS}, which effdet_torch.integrations.huggingface pushes: choose another one",
}


def local_file(name: str | os.PathLike[str]) -> Path:
    """Return the path of a model file; one on the Hub is downloaded into huggingface_hub's cache.

    Args:
        name: a path, or `hf:user/repository[@revision]`; a file whose name begins like this is `./hf:...`.

    Raises:
        UsageError: The name is not complete.
        ModelFileError: The file cannot be downloaded, or huggingface_hub is missing.
    """
    text = os.fspath(name).replace(os.sep, "/")
    if not text.startswith(PREFIX):
        return Path(name)
    found = NAME.fullmatch(text.removeprefix(PREFIX))
    if found is None:
        raise UsageError(f"{text} does not name a model on the Hub; expected hf:user/repository or with @revision")
    return downloaded(found["repository"], found["revision"])


def downloaded(repository: str, revision: str | None = None, **options: Any) -> Path:
    """Return the weights of a repository, in the cache.

    Args:
        repository: "user/name".
        revision: a branch, tag or commit; None is the main branch.
        options: of `hf_hub_download`: `token`, `cache_dir`, `force_download`, `local_files_only`.

    Raises:
        ModelFileError: The file cannot be downloaded, or huggingface_hub is missing.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ModelFileError(f"{PREFIX}{repository} needs huggingface_hub; {install_command('huggingface')}") from error
    named = f"{PREFIX}{repository}{'' if revision is None else f'@{revision}'}"
    try:
        size = hf_hub_download(repository, WEIGHTS, revision=revision, dry_run=True, **options).file_size
        if size > MAX_MODEL_BYTES:
            raise ModelFileError(f"{named} has {size} bytes; expected a model file, {MAX_MODEL_BYTES} at most")
        return Path(hf_hub_download(repository, WEIGHTS, revision=revision, **options))
    except (OSError, ValueError) as error:  # all of its own are of these kinds
        raise ModelFileError(f"{named} {_reason(error)}") from error


def _reason(error: Exception) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    known = next((reason for name, reason in REASONS.items() if name in kinds), None)
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return known or f"cannot be downloaded: {line}; check the network, the name and HF_ENDPOINT"
