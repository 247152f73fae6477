"""The metadata of converted files: where they are stored, and which versions of them this version reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 1
METADATA_KEY = "effdet_convert"  # under which .safetensors and .h5 files hold their metadata, as JSON


def newer_format(metadata: Mapping[str, Any]) -> str:
    """Return why metadata cannot be read, as the end of a sentence about their file; "" if they can."""
    version = metadata.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version <= FORMAT_VERSION:
        return ""
    return f"is written in format {version!r}; this version reads up to {FORMAT_VERSION}. Update effdet-convert."
