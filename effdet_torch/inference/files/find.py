"""What the user named: image files, videos, cameras and streams."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from effdet_torch.data.files import IMAGE_SUFFIXES
from effdet_torch.errors import UsageError, listed
from effdet_torch.outputs.paths import is_folder

COCO_FILE_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})\.\w+")
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
STREAM_SCHEMES = frozenset({"rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
MOST_CAMERAS = 1 << 31  # OpenCV's numbers are C's int
STREAM_SUFFIXES = VIDEO_SUFFIXES | {".m3u8", ".mjpeg", ".mjpg", ".mpd"}  # of http addresses


class VideoSource(NamedTuple):
    """Where frames come from.

    Attributes:
        address: of a file, a stream, or the number of a camera.
        name: for people and results; that of a stream lacks user, password and query.
        path: of a file; None for the others.
    """

    address: str | int
    name: str
    path: Path | None = None


class Sources(NamedTuple):
    """All that the user named, each once."""

    images: list[Path]
    videos: list[VideoSource]

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        return [*self.images, *(video.path for video in self.videos if video.path is not None)]


def find_sources(names: Sequence[str], recursive: bool = False) -> Sources:
    """Return the images and videos that files, folders, glob patterns, camera numbers and addresses stand for.

    A folder stands for its images (by suffix, sorted, with `recursive` also those in folders below); a pattern for what
    it matches, sorted, as in a shell; `**` also matches folders in folders. A number is a camera, unless there is a
    file of this name. Videos are recognised by their suffix, and only where they are named or matched: one video can
    take longer than all images of a folder.

    Raises:
        UsageError: None of them exists, an address is not that of a video, an address or a pattern is malformed, or a
            number is too high for a camera.
    """
    videos = {name: video for name in names if (video := _camera_or_stream(name)) is not None}
    if urls := [name for name in names if "://" in name and name not in videos]:
        raise UsageError(f"{_without_secrets(urls[0])} is a URL; download it first, and pass the file")
    others = [name for name in names if name not in videos]
    paths = [path for name in others for match in _matches(name) for path in _files_of(match, recursive)]
    if not videos and not any(map(_may_exist, paths)):
        raise UsageError(f"no image found: {listed(names)}; {_instead(others, recursive)}")
    paths = list(dict.fromkeys(paths))
    files = [VideoSource(str(path), str(path), path) for path in paths if is_video(path)]
    return Sources([path for path in paths if not is_video(path)], [*files, *videos.values()])


def _instead(names: Sequence[str], recursive: bool) -> str:
    """Return what to pass in place of names that stand for no image."""
    if not recursive and any(_is_image(file) for name in names for file in _inside_folders(name)):
        return "there are some in the folders below: pass --recursive"
    others = left_out(names, recursive)
    if videos := VIDEO_SUFFIXES & others.keys():
        return f"there are videos ({listed(sorted(videos))}): name them themselves, or by a quoted pattern"
    return "pass files, folders of images, or quoted patterns"


def _inside_folders(name: str) -> Iterator[Path]:
    return (file for match in _matches(name) if is_folder(match) for file in _inside(match, recursive=True))


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def left_out(names: Sequence[str], recursive: bool = False) -> Counter[str]:
    """Return the suffixes of the files in the folders of `find_sources` that are not images, and how many have them."""
    local = (name for name in names if "://" not in name)
    folders = {match for name in local for match in _matches(name) if is_folder(match)}
    files = {file for folder in folders for file in _inside(folder, recursive) if not file.name.startswith(".")}
    return Counter(file.suffix.lower() for file in files if not _is_image(file) and not is_folder(file))


def _camera_or_stream(name: str) -> VideoSource | None:
    if name.isascii() and name.isdecimal() and not _may_exist(Path(name)):
        if int(name) >= MOST_CAMERAS:
            raise UsageError(f"{name} is not the number of a camera, nor a file; expected 0, 1, 2, ...")
        return VideoSource(int(name), f"camera {int(name)}")
    scheme, separator, _ = name.partition("://")
    if not separator:
        return None
    is_stream = scheme.lower() in STREAM_SCHEMES
    if not is_stream and scheme.lower() in ("http", "https"):
        is_stream = Path(_parts_of(name).path).suffix.lower() in STREAM_SUFFIXES
    return VideoSource(name, _without_secrets(name)) if is_stream else None


def _without_secrets(address: str) -> str:
    """Return an address without user, password, query and fragment."""
    parts = _parts_of(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _parts_of(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # whose text may hold the password
        scheme = address.partition("://")[0]
        raise UsageError(
            f"a {scheme}:// address has a malformed host; check it, and its brackets if it is IPv6: {scheme}://[::1]/..."
        ) from None


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if _may_exist(path) or not glob.has_magic(name):
        return [path]
    first = next(place for place, part in enumerate(path.parts) if glob.has_magic(part))
    folder, pattern = Path(*path.parts[:first]), Path(*path.parts[first:])
    try:  # not `glob.glob`, which goes round and round where a link leads to a folder above
        found = sorted(folder.glob(str(pattern)))
    except ValueError as error:
        raise UsageError(f"{name} is not a pattern: {error}") from error
    if not _has_hidden(pattern):  # as in a shell, a pattern means hidden files only where it names one
        found = [match for match in found if not _has_hidden(match.relative_to(folder))]
    # A pattern without a match is kept, and reported as a file that does not exist.
    return found or [path]


def _may_exist(path: Path) -> bool:
    """Return whether a path exists, or cannot be reached, which is reported when it is read."""
    try:
        return path.exists()
    except OSError:
        return True


def _has_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_folder(path)  # what cannot be read is reported


def _files_of(path: Path, recursive: bool) -> list[Path]:
    return sorted(filter(_is_image, _inside(path, recursive))) if is_folder(path) else [path]


def _inside(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield what lies in a folder; below it neither hidden folders nor links to folders are entered."""
    if not recursive:
        yield from folder.iterdir()
        return
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names)


def image_id(path: Path) -> int | str:
    """Return the id of an image in a COCO results file: the number in a COCO file name, else the file name."""
    match = COCO_FILE_NAME.fullmatch(path.name)
    return int(match[1]) if match else path.name


def video_id(video: VideoSource) -> str:
    """Return what the ids of a video's frames begin with, in a COCO results file."""
    return video.name if video.path is None else video.path.name


def require_unique_ids(sources: Sources) -> None:
    """Refuse images and videos that a COCO results file could not tell apart.

    Raises:
        UsageError: Two have the same id.
    """
    known: dict[int | str, object] = {}
    rows: list[tuple[int | str, object]] = [(image_id(path), path) for path in sources.images]
    rows += [(video_id(video), video.path or video.name) for video in sources.videos]
    for key, name in rows:
        if key in known:
            raise UsageError(
                f"{known[key]} and {name} would both be image {key!r} in the JSON file; run the folders one by one"
            )
        known[key] = name
