"""Image files of every kind."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from effdet_torch.inference import images
from effdet_torch.inference.images import ImageError, image_to_rgb, read_image

Pixels = NDArray[np.uint8]
ORIENTATION = 0x0112


@pytest.fixture
def pixels() -> Pixels:
    """A noisy image of an odd size, without symmetry."""
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, orientation: int | None = None, **options: Any) -> Path:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = orientation
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_what_pillow_makes_of_it(tmp_path: Path, pixels: Pixels, mode: str) -> None:
    image = Image.fromarray(pixels).convert(mode)
    found = read_image(str(saved(tmp_path / "a.tif", image)))
    assert (found.dtype, found.shape, found.flags.writeable) == (np.uint8, (5, 7, 3), True)
    np.testing.assert_array_equal(found, pixels if mode == "RGB" else np.asarray(image.convert("RGB")))


def test_the_first_of_several_frames(tmp_path: Path) -> None:
    frames = [Image.new("L", (3, 2), value) for value in (10, 200)]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (read_image(path) == 10).all()


# 16 and 32 bits


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    found = read_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(grey * 257)))
    np.testing.assert_array_equal(found[:, :, 1], grey)
    big_endian = Image.fromarray((grey * 257).astype(">u2"))
    assert big_endian.mode == "I;16B"
    np.testing.assert_array_equal(image_to_rgb(big_endian)[:, :, 2], grey)


def test_pillow_alone_would_clip_16_bits() -> None:
    """Negative control: what the scaling is for."""
    image = Image.fromarray(np.full((2, 2), 1000, np.uint16))
    assert np.asarray(image.convert("RGB")).max() == 255
    assert image_to_rgb(image).max() == 1000 >> 8


def png_16_bit_rgb(pixels: Pixels) -> bytes:
    """Return a PNG with 16 bits per channel, which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = (pixels.astype(">u2") * 257 - (pixels > 0)).astype(">u2")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_16_bit_colour_takes_the_high_byte(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "a.png").write_bytes(png_16_bit_rgb(pixels))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_have_no_range(tmp_path: Path, dtype: type[np.generic]) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.ones((2, 2), dtype)))
    with pytest.raises(ImageError, match=r"a\.tif: the image has 32 bits per channel.*scale it to 8 or 16 bits"):
        read_image(path)


# Transparency


def test_transparent_pixels_become_white(tmp_path: Path, pixels: Pixels) -> None:
    alpha = np.full((5, 7, 1), 255, np.uint8)
    alpha[0] = 0
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(np.concatenate((pixels, alpha), axis=2))))
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1:], pixels[1:])
    assert (image_to_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 128))) == 127).all()


def test_transparent_palette_and_grey(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    found = read_image(saved(tmp_path / "a.png", palette, transparency=0))
    assert found.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    found = read_image(saved(tmp_path / "b.png", Image.new("LA", (1, 1), (9, 0))))
    assert found.tolist() == [[[255, 255, 255]]]


# Orientation


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Return what a viewer shows, in numpy's words."""
    swapped = pixels.transpose(1, 0, 2)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: swapped,
        6: np.rot90(pixels, -1),
        7: swapped[::-1, ::-1],
        8: np.rot90(pixels),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_on_request(tmp_path: Path, pixels: Pixels, orientation: int) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pixels), orientation)
    np.testing.assert_array_equal(read_image(path, apply_exif=True), turned(pixels, orientation))
    np.testing.assert_array_equal(read_image(path), pixels)
    grey = pixels[:, :, 0].astype(np.uint16) * 257
    path = saved(tmp_path / "b.png", Image.fromarray(grey), orientation)
    np.testing.assert_array_equal(read_image(path, apply_exif=True), turned(pixels[:, :, [0, 0, 0]], orientation))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_does_not_cost_the_image(tmp_path: Path, pixels: Pixels, exif: bytes) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    np.testing.assert_array_equal(read_image(path, apply_exif=True), pixels)


# Size and damage


def test_a_bomb_is_refused_and_a_large_photograph_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, huge = (saved(tmp_path / f"{n}.png", Image.new("L", (n, 1))) for n in (20, 21))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(large).shape == (1, 20, 3)  # Pillow's warning would be an error here
    with pytest.raises(ImageError, match=r"21\.png has more than 20 pixels.*Scale the image down"):
        read_image(huge)


@pytest.mark.parametrize("content", [b"hello, world", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg is not an image"):
        read_image(tmp_path / "a.jpg")


def test_missing_file_folder_and_truncated_file(tmp_path: Path, pixels: Pixels) -> None:
    with pytest.raises(ImageError, match=r"cannot read the image .*missing\.jpg: No such file"):
        read_image(tmp_path / "missing.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg is damaged: the file is empty\. Copy or download it again"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match=r"cannot read the image .*: Is a directory; name a file"):
        read_image(tmp_path)
    stream = io.BytesIO()
    Image.fromarray(np.tile(pixels, (20, 20, 1))).save(stream, "JPEG")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue()[: stream.tell() // 2])
    with pytest.raises(ImageError, match=r"a\.jpg is damaged: image file is truncated\. Copy or download it again"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_every_image_that_is_cut_short_is_refused(tmp_path: Path, pixels: Pixels, suffix: str) -> None:
    whole = saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels)).read_bytes()
    behind_pixels = {"bmp": 3, "gif": 2}.get(suffix, 0)
    for size in range(0, len(whole) - behind_pixels, 1 + len(whole) // 300):
        (tmp_path / "b").write_bytes(whole[:size])
        with pytest.raises(ImageError, match=r"Copy or download it again|is not an image"):
            read_image(tmp_path / "b")
    (tmp_path / "b").write_bytes(whole)
    assert read_image(tmp_path / "b").shape == pixels.shape


def test_a_png_without_its_last_byte(tmp_path: Path, pixels: Pixels) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    whole = path.read_bytes()
    for size in range(len(whole) - 20, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ImageError, match=r"a\.png is damaged: .*Copy or download it again"):
            read_image(path)
    path.write_bytes(whole + b"something behind the image")
    np.testing.assert_array_equal(read_image(path), pixels)


def test_an_animated_png(tmp_path: Path, pixels: Pixels) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    np.testing.assert_array_equal(
        read_image(saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])), pixels
    )


def test_a_program_is_refused(tmp_path: Path, pixels: Pixels) -> None:
    path = saved(tmp_path / "a.eps", Image.fromarray(pixels))
    with pytest.raises(ImageError, match=r"a\.eps: a PostScript file is a program.*save it as PNG"):
        read_image(path)


@pytest.mark.timeout(20)
def test_images_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: Pixels) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(ImageError, match=r"cannot read the image .*: it is a pipe or a device; copy its content"):
            read_image(path)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", path.stat().st_size)
    assert read_image(path).shape == pixels.shape
    with path.open("ab") as stream:
        stream.truncate(300 << 30)
    with pytest.raises(ImageError, match=rf"a\.png: it has {300 << 30} bytes; expected at most"):
        read_image(path)


def test_flipped_bits_end_in_pixels_or_in_one_kind_of_error(tmp_path: Path, pixels: Pixels) -> None:
    content = saved(tmp_path / "a.png", Image.fromarray(pixels)).read_bytes()
    errors = 0
    for position in range(8, len(content)):
        damaged = content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]
        (tmp_path / "b.png").write_bytes(damaged)
        try:
            assert read_image(tmp_path / "b.png", apply_exif=True).shape[2] == 3
        except ImageError:
            errors += 1
    assert errors > 50
