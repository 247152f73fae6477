"""The table of official files: what it says, which names it answers to, and which mistakes in it are found."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from converter.errors import MappingError
from converter.identify.official import MIRROR_VARIABLE, find_official, official_files, parse_official
from effdet_torch.config import VARIANTS, get_config
from effdet_torch.errors import ConfigError, UsageError

BASE = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet/"
TABLE = """\
base_url: "https://host/base/"
collections:
- name: all
  hparams: "name=efficientdet-{variant},image_size=640"
  files: {"efficientdet-{variant}": "a/efficientdet-{variant}.tar.gz"}
  ap: {d0: 34.3, d1: 40}
checksums: {}
"""


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EFFDET_OFFICIAL_URL", raising=False)


# What the table says.


@pytest.mark.parametrize(
    ("name", "path", "ap"),
    [
        ("efficientdet-d0", "coco2/efficientdet-d0.tar.gz", 34.3),
        ("efficientdet-d0.h5", "coco2/efficientdet-d0.h5", 34.3),
        ("efficientdet-d7x", "coco2/efficientdet-d7x.tar.gz", 54.4),
        ("efficientdet-d4-640", "coco640/efficientdet-d4-640.tar.gz", 45.7),
        ("efficientdet-d6-640.h5", "coco640/efficientdet-d6-640.h5", 47.9),
        ("efficientdet-d5-advprop", "advprop/efficientdet-d5.tar.gz", 52.2),
        ("efficientdet-lite3x", "coco/efficientdet-lite3x.tgz", 42.6),
    ],
)
def test_where_files_lie(name: str, path: str, ap: float) -> None:
    file = official_files()[name]
    assert (file.url, file.ap) == (BASE + path, ap)


def test_which_files_exist() -> None:
    d, lite = [f"d{n}" for n in range(8)] + ["d7x"], ["lite0", "lite1", "lite2", "lite3", "lite3x", "lite4"]
    small, advprop = [f"d{n}-640" for n in range(2, 7)], [f"d{n}-advprop" for n in range(6)]
    expected = [*d, *lite, *small, *advprop, *(f"{name}.h5" for name in d + small)]
    assert sorted(file.short_name for file in official_files().values()) == sorted(expected)
    assert {file.variant for file in official_files().values()} == set(VARIANTS)
    assert len({file.url for file in official_files().values()}) == len(expected)


def test_no_checksum_is_made_up() -> None:
    assert {(file.size_bytes, file.sha256) for file in official_files().values()} == {(None, None)}


def test_hyperparameters_make_the_config_of_each_file() -> None:
    for file in official_files().values():
        assert file.hparams["name"] == f"efficientdet-{file.variant}"
        expected = get_config(file.variant)
        if "-640" in file.name:
            expected = get_config(file.variant, image_size=640)
        if "-advprop" in file.name:
            expected = get_config(file.variant, normalization="advprop", mean_rgb=(0.0,) * 3, std_rgb=(1.0,) * 3)
        assert file.config == expected


@pytest.mark.parametrize(
    ("name", "size", "scaling"),
    [
        ("d0", (512, 512), "mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375"),
        ("d6-640", (640, 640), "mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375"),
        ("d5-advprop", (1280, 1280), "x * 2 / 255 - 1"),
        ("lite0", (320, 320), "mean 127; std 128"),
    ],
)
def test_what_a_listing_shows(name: str, size: tuple[int, int], scaling: str) -> None:
    file = find_official(name)
    assert file is not None
    assert (file.config.image_size, file.input_scaling) == (size, scaling)


def test_the_table_is_read_once() -> None:
    assert official_files() is official_files()


@pytest.mark.parametrize("mirror", ["http://mirror/files", "http://mirror/files/"])
def test_a_mirror_has_the_same_paths(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDET_OFFICIAL_URL", mirror)
    assert official_files()["efficientdet-d0"].url == "http://mirror/files/coco2/efficientdet-d0.tar.gz"
    monkeypatch.setenv("EFFDET_OFFICIAL_URL", "")
    assert official_files()["efficientdet-d0"].url == BASE + "coco2/efficientdet-d0.tar.gz"


# Names.


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("d0", "efficientdet-d0"),
        ("efficientdet-d0", "efficientdet-d0"),
        ("EfficientDet-D0", "efficientdet-d0"),
        ("efficientdet_d0", "efficientdet-d0"),
        ("efficientdet-d0.tar.gz", "efficientdet-d0"),
        ("D7X", "efficientdet-d7x"),
        ("d0.h5", "efficientdet-d0.h5"),
        ("d4-640", "efficientdet-d4-640"),
        ("d4-640.h5", "efficientdet-d4-640.h5"),
        ("d0-advprop", "efficientdet-d0-advprop"),
        ("d0_advprop", "efficientdet-d0-advprop"),
        ("lite0", "efficientdet-lite0"),
        ("lite3x.tgz", "efficientdet-lite3x"),
        (BASE + "advprop/efficientdet-d0.tar.gz", "efficientdet-d0-advprop"),
    ],
)
def test_names(given: str, name: str) -> None:
    file = find_official(given)
    assert file is not None
    assert file.name == name


def test_every_file_is_found_by_its_own_name_and_url() -> None:
    for file in official_files().values():
        assert find_official(file.name) == find_official(file.short_name) == find_official(file.url) == file


@pytest.mark.parametrize(
    "name",
    [
        "",
        "mine",
        "d0.pth",
        "d0.safetensors",
        "d",
        "dx",
        "efficientdet",
        "efficientdet-mine",
        "models/d0",
        "./d0",
        "model.ckpt-640",
        "my-efficientdet-d0",
        "d0-finetuned",
        "https://host/efficientdet-d0.tar.gz",
    ],
)
def test_other_names_are_not_official(name: str) -> None:
    assert find_official(name) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d0-640", r"'d0-640'; of d0 there are d0, d0\.h5, d0-advprop; with -640 there are d2-640, .*, d6-640$"),
        (
            "d6-advprop",
            r"of d6 there are d6, d6\.h5, d6-640, d6-640\.h5; with -advprop there are d0-advprop, .*d5-advprop$",
        ),
        ("d0-512", r"of d0 there are d0, d0\.h5, d0-advprop$"),
        ("d8", r"the official variants are d0, d1, .*, lite4$"),
        ("lite9", r"the official variants are .*; did you mean lite4\?$"),
        ("lite0.h5", r"of lite0 there are lite0$"),
        ("lite0.tar.gz", r"'lite0.tar.gz'; of lite0 there are lite0$"),
        ("efficientdet-d0-advprop.h5", r"of d0 there are d0, d0\.h5, d0-advprop; with -advprop"),
        ("d0-640-advprop", r"of d0 there are"),
    ],
)
def test_a_name_of_no_file_says_which_there_are(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as raised:
        find_official(name)
    assert isinstance(raised.value, UsageError)


# Mistakes in the table.


def test_a_table_is_parsed() -> None:
    known = 'checksums: {"a/efficientdet-d1.tar.gz": {size_bytes: 5, sha256: "' + "0a" * 32 + '"}}'
    d0, d1 = parse_official(TABLE.replace("checksums: {}", known).encode()).values()
    assert (d0.name, d0.url, d0.ap) == ("efficientdet-d0", "https://host/base/a/efficientdet-d0.tar.gz", 34.3)
    assert d0.hparams == {"name": "efficientdet-d0", "image_size": 640}
    assert (d0.size_bytes, d0.sha256) == (None, None)
    assert (d1.ap, d1.size_bytes, d1.sha256) == (40.0, 5, "0a" * 32)


@pytest.mark.parametrize(
    ("before", "after", "line", "text"),
    [
        ("checksums: {}", "checksums: {}\nother: 1", 8, "'other' is unknown"),
        ("checksums: {}", "", 1, "'checksums' is missing"),
        ("checksums: {}", "checksums: {a/b.h5: {size_bytes: 1}}", 7, "is the path of no file"),
        ("checksums: {}", "checksums: {a/efficientdet-d0.tar.gz: {md5: x}}", 7, "'md5' is unknown"),
        ("checksums: {}", "checksums: {a/efficientdet-d0.tar.gz: {size_bytes: -1}}", 7, "expected an integer"),
        ("checksums: {}", "checksums: {a/efficientdet-d0.tar.gz: {sha256: abc}}", 7, "64 hexadecimal digits"),
        ("https://host", "http://host", 1, "no https address"),
        ("- name: all\n", "- name: all\n  also: 1\n", 4, "'also' is unknown"),
        ("  ap:", "  files: {}\n  ap:", 6, "'files' stands twice"),
        ("{variant},", "{model},", 4, "the only placeholder here is {variant}"),
        ("image_size=640", "image_size=big", 4, "image_size is 'big'"),
        ("image_size=640", "image_size", 4, "not of the form key=value"),
        ("image_size=640", "imagesize=640", 4, "'imagesize' is unknown"),
        ('"a/efficientdet-{variant}', '"../efficientdet-{variant}', 5, "not the path of a file"),
        ('"a/efficientdet-{variant}', '"/efficientdet-{variant}', 5, "not the path of a file"),
        ('{"efficientdet-{variant}"', '{"model-{variant}"', 5, "'model-d0' is not a name"),
        ('{"efficientdet-{variant}"', '{"efficientdet-{v}"', 5, "is not a name"),
        ('{"efficientdet-{variant}"', '{"efficientdet-d0"', 3, "'efficientdet-d0' stands in two"),
        ("d1: 40", "d9: 40", 6, "variant 'd9' does not exist"),
        ("d1: 40", "d1: high", 6, "expected an AP"),
        ("d1: 40", "d1: 340", 6, "expected an AP"),
        ("d1: 40", "d0: 40", 6, "'d0' stands twice"),
    ],
)
def test_a_mistake_is_found_with_its_line(before: str, after: str, line: int, text: str) -> None:
    assert before in TABLE
    with pytest.raises(MappingError, match=text) as raised:
        parse_official(TABLE.replace(before, after, 1).encode())
    assert str(raised.value).startswith(f"mappings/official.yaml, line {line}: ")


def test_what_is_not_yaml_is_refused() -> None:
    with pytest.raises(MappingError, match=r"mappings/official\.yaml is not YAML"):
        parse_official(b"a: [")


def test_the_shipped_table_is_the_one_that_is_parsed() -> None:
    text = (resources.files("mappings") / "official.yaml").read_bytes()
    assert parse_official(text) == official_files()


ORIGINAL = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet/advprop/efficientdet-d0.tar.gz"


@pytest.mark.parametrize("mirror", ["", "http://127.0.0.1:8000/files/"])
@pytest.mark.parametrize(
    "url",
    [
        ORIGINAL,
        ORIGINAL.replace("https", "http"),
        ORIGINAL.replace("storage.googleapis.com", "Storage.GoogleAPIs.com:443"),
        f"{ORIGINAL}#x",
        f"{ORIGINAL}?generation=1",
    ],
)
def test_a_url_in_another_spelling_is_the_same_file(monkeypatch: pytest.MonkeyPatch, mirror: str, url: str) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, mirror)
    file = find_official(url)
    assert file is not None
    assert file.name == "efficientdet-d0-advprop"
    assert file.original_url == ORIGINAL
    assert find_official(url.replace("advprop/", "other/")) is None
    assert find_official(url.replace("cloud-tpu", "my-tpu")) is None


def test_the_documentation_lists_every_file() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs" / "sources.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for file in official_files().values():
        row = rows[file.short_name.removesuffix(".h5")]
        height, width = file.config.image_size
        assert f"| {height} x {width} | {file.input_scaling} | {file.ap} |" in row
        assert (
            ("(+ `.h5`)" in row) if file.short_name.endswith(".h5") else file.original_url.endswith(row.split("`")[-2])
        )
