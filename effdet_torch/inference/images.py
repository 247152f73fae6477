"""Images of any kind to 8-bit RGB.

What happens to pixels that are not 8-bit RGB already:

    grey, palette, CMYK, YCbCr, ...    converted as Pillow does; colour profiles are not applied
    16 bits per channel                the high byte is taken, as by most decoders
    transparency                       composited on white
    several frames                     the first one
    32 bits per channel                refused: their range is unknown

JPEG is decoded by Pillow, which equals TensorFlow's decoder with `dct_method="INTEGER_ACCURATE"`, not with its default.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from effdet_torch.errors import EffdetError
from effdet_torch.untrusted.files import MAX_IMAGE_BYTES, FilePart, open_bytes, reason_of

if TYPE_CHECKING:
    from torch import Tensor

RgbImage: TypeAlias = "Tensor | NDArray[Any]"  # (height, width, 3)
ImageFile: TypeAlias = str | Path | FilePart
ImageSource: TypeAlias = "ImageFile | Image.Image | NDArray[np.uint8] | Tensor"

# Pillow widens 16-bit grey of these formats to 32 bits.
WIDENED_FORMATS = ("PNG", "PPM")
PROGRAM = "EPS"  # the one format that Pillow has another program decode
REMAINDER = re.compile(r" \(\d+ bytes not processed\)")  # of what Pillow's decoder had in its buffer, not of the file
CHECKSUM_BYTES = 4  # of the last chunk of a PNG

# What is never a row of images; bytes are none at all, and refused as one.
SINGLE: tuple[type, ...] = (str, bytes, Path, Image.Image)

AHEAD = 2  # batches that a worker reads before they are asked for


class ImageError(EffdetError):
    """An image cannot be read or used."""


def as_many(images: ImageSource | Iterable[ImageSource]) -> Iterable[ImageSource]:
    """Return one image or several as several."""
    if _is_array(images) and images.ndim != 4:
        return [images]
    is_one = isinstance(images, SINGLE) or not hasattr(images, "__iter__")
    return cast("Iterable[ImageSource]", [images] if is_one else images)  # `to_rgb` refuses what is no image


def to_rgb(image: ImageSource, apply_exif: bool = True) -> RgbImage:
    """Return an image as uint8 pixels, (height, width, 3).

    Args:
        image: a file, a Pillow image, or uint8 RGB, (height, width, 3) or (3, height, width).
        apply_exif: for a path, see `read_image`.

    Raises:
        ImageError: The file cannot be read, or the pixels are not uint8 RGB.
    """
    if isinstance(image, (str, Path, FilePart)):
        return read_image(image, apply_exif)
    if isinstance(image, Image.Image):
        return image_to_rgb(image)
    if not _is_array(image):
        raise ImageError(
            f"an image is of type {type(image).__name__}; expected a path, a Pillow image, an array or a tensor; "
            "Image.open(io.BytesIO(content)) of Pillow opens an encoded image"
        )
    if str(image.dtype) not in ("uint8", "torch.uint8"):
        raise ImageError(f"an image has dtype {image.dtype}; expected uint8, 0..255")
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]) or 0 in image.shape:
        raise ImageError(f"an image has shape {tuple(image.shape)}; expected RGB, (height, width, 3)")
    if image.shape[2] == 3:
        return image
    return image.transpose(1, 2, 0) if isinstance(image, np.ndarray) else image.permute(1, 2, 0)


def _is_array(image: Any) -> TypeGuard[NDArray[Any] | Tensor]:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return isinstance(image, np.ndarray) or (torch is not None and isinstance(image, torch.Tensor))


def read_image(path: ImageFile, apply_exif: bool = False) -> NDArray[np.uint8]:
    """Read an image file.

    Args:
        path: a file, or a part of one, in any format that Pillow reads.
        apply_exif: turn the image the way its EXIF orientation says, as viewers do. COCO's annotations refer to the
            stored pixels, so an evaluation must not.

    Returns:
        (height, width, 3), RGB, 0..255.

    Raises:
        ImageError: The file is missing, damaged, truncated, too large or not an image.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above half the size that it refuses, and the photographs of large cameras lie between.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # It also warns about damaged EXIF data and the like, which do not affect the pixels.
            warnings.simplefilter("ignore", UserWarning)
            with open_bytes(path, MAX_IMAGE_BYTES) as file, _opened(file) as image:
                image.load()
                return image_to_rgb(_upright(image) if apply_exif else image)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes can end in any error of a decoder
        raise ImageError(_describe(path, error)) from error


def read_images(
    paths: Sequence[ImageFile], batch_size: int, *, workers: int = 0, apply_exif: bool = False, pin_memory: bool = False
) -> Iterator[list[NDArray[np.uint8] | ImageError]]:
    """Read image files, in batches.

    Args:
        paths: see `read_image`.
        batch_size: how many images a batch has.
        workers: processes that read, at most `AHEAD` batches each before they are asked for; 0 reads in this one.
        apply_exif: see `read_image`.
        pin_memory: put the pixels where a GPU fetches them fastest.

    Yields:
        (height, width, 3) for every image, or why it cannot be read.
    """
    if workers or pin_memory:
        yield from _load_images(paths, batch_size, workers, apply_exif, pin_memory)
        return
    for start in range(0, len(paths), batch_size):
        yield _read_batch(paths[start : start + batch_size], apply_exif)


def _load_images(
    paths: Sequence[ImageFile], batch_size: int, workers: int, apply_exif: bool, pin_memory: bool
) -> Iterator[list[NDArray[np.uint8] | ImageError]]:
    from torch.utils.data import DataLoader, Dataset  # shares the pixels between processes

    files = cast("Dataset[ImageFile]", paths)  # a loader needs no more than a sequence
    read = partial(_read_tensors, apply_exif=apply_exif)  # the part of it that runs in the workers
    ahead = AHEAD if workers else None
    loader = DataLoader(
        files, batch_size, num_workers=workers, collate_fn=read, pin_memory=pin_memory, prefetch_factor=ahead
    )
    for batch in loader:
        yield [image if isinstance(image, ImageError) else image.numpy() for image in batch]


def _read_batch(paths: Sequence[ImageFile], apply_exif: bool) -> list[NDArray[np.uint8] | ImageError]:
    return [_read_or_error(path, apply_exif) for path in paths]


def _read_tensors(paths: Sequence[ImageFile], apply_exif: bool) -> list[Tensor | ImageError]:
    import torch

    images = _read_batch(paths, apply_exif)
    return [image if isinstance(image, ImageError) else torch.from_numpy(image) for image in images]


def _read_or_error(path: ImageFile, apply_exif: bool) -> NDArray[np.uint8] | ImageError:
    try:
        return read_image(path, apply_exif)
    except ImageError as error:  # raised in a worker, its text would hold a traceback
        return error


def image_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Turn a Pillow image of any mode into (height, width, 3) RGB, 0..255; the EXIF orientation is left alone.

    Raises:
        ImageError: The image has 32 bits per channel.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in WIDENED_FORMATS):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ImageError(f"the image has 32 bits per channel (mode {image.mode}); scale it to 8 or 16 bits first")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _opened(file: IO[bytes]) -> Image.Image:
    """Open an image whose pixels can be decoded; what Pillow itself lets pass is refused here."""
    if not file.read(1):
        raise OSError("the file is empty")
    file.seek(0)
    image = Image.open(file)
    if image.format == PROGRAM:
        raise ImageError("a PostScript file is a program, which may never end; save it as PNG first")
    if image.format != "PNG":
        return image
    image.verify()  # Pillow decodes a PNG whose last bytes are missing
    if len(file.read(CHECKSUM_BYTES)) < CHECKSUM_BYTES:
        raise OSError("truncated PNG file")
    file.seek(0)
    return Image.open(file)


def _upright(image: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data, good pixels
        return image
    upright.format = image.format  # a turned image has none
    return upright


def _describe(path: ImageFile, error: Exception) -> str:
    """Return what is wrong with a file and what to do about it."""
    if isinstance(error, UnidentifiedImageError):
        return (
            f"{path} is not an image, or its format is not supported; expected JPEG, PNG or another that Pillow reads."
        )
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return (
            f"{path} has more than {limit} pixels; a small file of that size can fill the memory. "
            "Scale the image down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read the image {path}: {reason_of(error)}."
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    reason = REMAINDER.sub("", reason)
    return f"{path} is damaged: {reason}. Copy or download it again."
