"""Image files of any kind to 8-bit RGB.

What happens to pixels that are not 8-bit RGB already:

    grey, palette, CMYK, YCbCr, ...    converted as Pillow does; colour profiles are not applied
    16 bits per channel                the high byte is taken, as by most decoders
    transparency                       composited on white
    several frames                     the first one
    32 bits per channel                refused: their range is not known

JPEG is decoded by Pillow, which equals TensorFlow's decoder with `dct_method="INTEGER_ACCURATE"`, not with its default.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from effdet_torch.errors import EffdetError

# Pillow widens 16-bit grey of these formats to 32 bits.
WIDENED_FORMATS = ("PNG", "PPM")


class ImageError(EffdetError):
    """An image cannot be read or used."""


def read_image(path: str | Path, apply_exif: bool = False) -> NDArray[np.uint8]:
    """Read an image file.

    Args:
        path: any format that Pillow reads.
        apply_exif: turn the image the way its EXIF orientation says, as viewers do. COCO's annotations refer to the
            pixels as stored, so evaluation must not.

    Returns:
        (height, width, 3), RGB, 0..255.

    Raises:
        ImageError: The file is missing, damaged, truncated, too large or no image.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above half the size that it refuses, and the photographs of large cameras lie between.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Also about damaged EXIF and the like, which is no reason to refuse good pixels.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path) as image:
                image.load()
                return image_to_rgb(_upright(image) if apply_exif else image)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes can end in any error of a decoder
        raise ImageError(_describe(path, error)) from error


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


def _upright(image: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing, and the pixels are good
        return image
    upright.format = image.format  # a turned image has none
    return upright


def _describe(path: str | Path, error: Exception) -> str:
    """Return what is wrong with a file and what to do about it."""
    if isinstance(error, UnidentifiedImageError):
        return f"{path} is not an image, or of a format that Pillow cannot read; expected JPEG, PNG or the like."
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return (
            f"{path} has more than {limit} pixels; such files are refused because a small one can fill the memory. "
            "Scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read the image {path}: {error.strerror}."
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} is damaged: {reason}. Copy or download it again."
