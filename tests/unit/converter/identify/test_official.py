"""The table of official files: what it says, that it holds no mistakes, and which names it answers to."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from converter.errors import MissingFileError
from converter.hparams.fields import MEANINGS
from converter.identify import official
from converter.identify.official import LIST, MIRROR_VARIABLE, find_official, nearest_official, official_files
from converter.locate import open_checkpoint
from effdet_torch.architecture.backbone import BACKBONES
from effdet_torch.config import VARIANTS, BackboneConfig, EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError

BASE = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet/"
ADVPROP = BASE + "advprop/efficientdet-d0.tar.gz"


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)


def table() -> dict[str, Any]:
    return yaml.safe_load((resources.files("mappings") / "official.yaml").read_bytes())


# What the table says.


@pytest.mark.parametrize(
    ("name", "path", "ap", "size", "scaling"),
    [
        ("d0", "coco2/efficientdet-d0.tar.gz", 34.3, 512, "mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375"),
        ("d7x", "coco2/efficientdet-d7x.tar.gz", 54.4, 1536, "mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375"),
        (
            "d6-640.h5",
            "coco640/efficientdet-d6-640.h5",
            47.9,
            640,
            "mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375",
        ),
        ("d5-advprop", "advprop/efficientdet-d5.tar.gz", 52.2, 1280, "x * 2 / 255 - 1"),
        ("lite3x", "coco/efficientdet-lite3x.tgz", 42.6, 640, "mean 127; std 128"),
    ],
)
def test_what_is_known_of_a_file(name: str, path: str, ap: float, size: int, scaling: str) -> None:
    file = official_files()[f"efficientdet-{name}"]
    assert (file.url, file.ap, file.config.image_size, file.input_scaling) == (BASE + path, ap, (size, size), scaling)


def test_which_files_exist() -> None:
    d, lite = [f"d{n}" for n in range(8)] + ["d7x"], ["lite0", "lite1", "lite2", "lite3", "lite3x", "lite4"]
    small, advprop = [f"d{n}-640" for n in range(2, 7)], [f"d{n}-advprop" for n in range(6)]
    first = [f"d{n}-coco1" for n in range(8)]
    expected = [*d, *lite, *small, *advprop, *first, *(f"{name}.h5" for name in d + small)]
    files = [file for file in official_files().values() if not file.is_backbone]
    assert sorted(file.short_name for file in files) == sorted(expected)
    assert {file.variant for file in files} == set(VARIANTS)
    assert len({file.url for file in files}) == len(expected)


def test_which_backbones_exist() -> None:
    files = [file for file in official_files().values() if file.is_backbone]
    endings = {"": "01234567", "-baseline": "012345", "-randaug": "578", "-advprop": "012345678"}
    expected = [f"efficientnet-b{n}{ending}" for ending, numbers in endings.items() for n in numbers]
    expected += [f"efficientnet-b{n}-noisystudent" for n in range(8)] + [f"efficientnet-lite{n}" for n in range(5)]
    expected += ["efficientnet-l2-noisystudent", "efficientnet-l2-475-noisystudent"]
    assert sorted(file.name for file in files) == sorted(expected)
    assert {file.variant for file in files} == set(BACKBONES)
    assert len({file.url for file in files}) == len(expected)
    for file in files:
        assert find_official(file.name) == find_official(file.url) == file
        assert (file.short_name, file.config, file.ap, file.input_scaling) == (
            file.name,
            BackboneConfig(file.variant),
            None,
            "",
        )


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("efficientnet-b0", "ckptsaug/efficientnet-b0.tar.gz"),
        ("efficientnet-lite4", "lite/efficientnet-lite4.tar.gz"),
        ("efficientnet-b5-baseline", "ckpts/efficientnet-b5.tar.gz"),
        ("efficientnet-b7-randaug", "randaug/efficientnet-b7-randaug.tar.gz"),
        ("efficientnet-b8-advprop", "advprop/efficientnet-b8.tar.gz"),
        ("efficientnet-b3-noisystudent", "noisystudent/noisy_student_efficientnet-b3.tar.gz"),
        ("efficientnet-l2-475-noisystudent", "noisystudent/noisy_student_efficientnet-l2_475.tar.gz"),
    ],
)
def test_where_a_backbone_is(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = BASE.replace("/efficientdet/", "/efficientnet/") + path
    assert official_files()[name].url == url
    monkeypatch.setenv(MIRROR_VARIABLE, "http://mirror")
    assert (official_files()[name].url, official_files()[name].original_url) == (
        f"http://mirror/efficientnet/{path}",
        url,
    )


def test_every_entry_is_usable() -> None:
    for file in official_files().values():
        if file.is_backbone:
            continue
        assert find_official(file.name) == find_official(file.short_name) == find_official(file.url) == file
        assert re.fullmatch(re.escape(BASE) + r"[a-z0-9]+/[a-z0-9-]+(\.h5|\.tgz|\.tar\.gz)", file.url)
        assert (file.ap is None) == file.name.endswith("-coco1")
        assert file.hparams["name"] == f"efficientdet-{file.variant}"
        assert set(file.hparams) <= {"name", *(meaning.name for meaning in MEANINGS)}  # others would be ignored
        expected = get_config(file.variant)
        if "-640" in file.name:
            expected = get_config(file.variant, image_size=640)
        if "-advprop" in file.name:
            expected = get_config(file.variant, normalization="advprop", mean_rgb=(0.0,) * 3, std_rgb=(1.0,) * 3)
        assert file.config == expected


def test_every_checksum_belongs_to_a_file() -> None:
    known = {BASE + path: values for path, values in table()["checksums"].items()}
    assert known == {
        file.original_url: {"size_bytes": file.size_bytes, "sha256": file.sha256}
        for file in official_files().values()
        if (file.size_bytes, file.sha256) != (None, None)
    }


def test_a_checksum_reaches_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = table() | {"checksums": {"coco2/efficientdet-d1.h5": {"size_bytes": 5, "sha256": "0a" * 32}}}
    monkeypatch.setattr(yaml, "safe_load", lambda _: changed)
    files = official._read_files.__wrapped__("").values()
    assert [(file.name, file.sha256) for file in files if file.size_bytes == 5] == [("efficientdet-d1.h5", "0a" * 32)]


@pytest.mark.parametrize("mirror", ["http://mirror/files", "http://mirror/files/"])
def test_a_mirror_has_the_same_paths(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, mirror)
    file = official_files()["efficientdet-d0-advprop"]
    assert (file.url, file.original_url) == ("http://mirror/files/advprop/efficientdet-d0.tar.gz", ADVPROP)
    assert find_official(file.url) == find_official(ADVPROP) == file
    monkeypatch.setenv(MIRROR_VARIABLE, "")
    assert official_files()["efficientdet-d0-advprop"].url == ADVPROP


def test_the_documentation_lists_every_file() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs" / "sources" / "official.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for file in official_files().values():
        name, path, config = file.short_name.removesuffix(".h5"), file.original_url, file.config
        if file.is_backbone or name.endswith("-coco1"):  # one row for every N
            number = r"(?<=b)\d|(?<=lite)\d|(?<=\bd)\d"
            name, path = re.sub(number, "N", name), re.sub(number, "N", path)
        elif isinstance(config, EfficientDetConfig):
            height, width = config.image_size
            assert f"| {height} x {width} | {file.input_scaling} | {file.ap} |" in rows[name]
        is_h5 = file.name.endswith(".h5")
        assert ("(+ `.h5`)" in rows[name]) if is_h5 else path.endswith(f"/{rows[name].split('`')[-2]}")


# Names.


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("EfficientDet-D0", "efficientdet-d0"),
        ("efficientdet_d6", "efficientdet-d6"),
        ("efficientdet-d0.tar.gz", "efficientdet-d0"),
        ("D7X", "efficientdet-d7x"),
        ("tf_efficientdet_d0", "efficientdet-d0"),
        ("tf_efficientdet_d0_ap", "efficientdet-d0-advprop"),
        ("tf_efficientdet_lite0", "efficientdet-lite0"),
        ("d4-640.h5", "efficientdet-d4-640.h5"),
        ("d0_advprop", "efficientdet-d0-advprop"),
        ("lite3x.tgz", "efficientdet-lite3x"),
        ("d0-coco1", "efficientdet-d0-coco1"),
        (f"{BASE}coco/efficientdet-d7.tar.gz", "efficientdet-d7-coco1"),
        ("EfficientNet-B0", "efficientnet-b0"),
        ("efficientnet_b0.tar.gz", "efficientnet-b0"),
        ("tf_efficientnet_b0", "efficientnet-b0"),
        ("tf_efficientnet_b0_aa", "efficientnet-b0"),
        ("tf_efficientnet_b0.aa_in1k", "efficientnet-b0"),
        ("tf_efficientnet_b8_ap", "efficientnet-b8-advprop"),
        ("tf_efficientnet_b8.ra_in1k", "efficientnet-b8-randaug"),
        ("tf_efficientnet_b0_ns", "efficientnet-b0-noisystudent"),
        ("tf_efficientnet_l2.ns_jft_in1k", "efficientnet-l2-noisystudent"),
        ("tf_efficientnet_lite0", "efficientnet-lite0"),
        (ADVPROP.replace("https", "http"), "efficientdet-d0-advprop"),
        (ADVPROP.replace("storage.googleapis.com", "Storage.GoogleAPIs.com:443"), "efficientdet-d0-advprop"),
        (f"{ADVPROP}?generation=1#x", "efficientdet-d0-advprop"),
    ],
)
def test_names_and_urls_in_any_spelling(given: str, name: str) -> None:
    file = find_official(given)
    assert file is not None
    assert file.name == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "mine", "d", "dx", "efficientdet", "efficientdet-mine", "d0.pth", "models/d0", "./d0", "model.ckpt-640"],
        *[
            "my-efficientdet-d0",
            "d0-ra",
            "efficientnet",
            "efficientnet-v2-s",
            "efficientnetv2-b0",
            "mnasnet-a1",
            "d0-finetuned",
            "https://host/efficientdet-d0.tar.gz",
        ],
        *[ADVPROP.replace("advprop/", "other/"), ADVPROP.replace("cloud-tpu", "my-tpu")],
    ],
)
def test_other_names_are_not_official(name: str) -> None:
    assert find_official(name) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "d0-640",
            "'d0-640' is not an official file; available for d0: d0, d0.h5, d0-advprop, d0-coco1; available with",
        ),
        ("d6-advprop", "for d6: d6, d6.h5, d6-640, d6-640.h5, d6-coco1; available with -advprop: d0-advprop, "),
        ("d0-512", "available for d0: d0, d0.h5, d0-advprop, d0-coco1$"),
        ("d0-640-advprop", "available for d0: d0, d0.h5, d0-advprop, d0-coco1$"),
        ("tf_efficientdet_d6_ap", "'tf_efficientdet_d6_ap' is not an official file; available for d6: d6, d6.h5, "),
        ("d8", r"the official variants are d0, d1, .*, lite4$"),
        ("lite9", r"the official variants are .*; did you mean 'lite4'\?$"),
        (
            "d0-noisystudent",
            r"d0-coco1; no official detector was trained like that \(-noisystudent\); available for its backbone: "
            "efficientnet-b0-noisystudent$",
        ),
        ("d6_ap", r"available with -advprop: d0-advprop, .*; available for its backbone: efficientnet-b6-advprop$"),
        ("efficientnet-b8", "for efficientnet-b8: efficientnet-b8-randaug, efficientnet-b8-advprop$"),
        ("efficientnet-b9", r"the official variants are efficientnet-b0, .*, efficientnet-l2$"),
        ("tf_efficientnet_lite0_ns", "for efficientnet-lite0: efficientnet-lite0; available with -noisystudent: "),
        ("efficientnet-b0.h5", "available for efficientnet-b0: efficientnet-b0, efficientnet-b0-baseline, "),
        ("lite0.h5", "available for lite0: lite0$"),
        ("EfficientDet_D0", r"^efficientdet_d0 is a model of the effdet package, .* \.pth file; .* model is 'd0'$"),
        ("efficientdet_q0", r"^efficientdet_q0 is a model of the effdet package, .* \.pth file$"),
        ("resdet50", "^resdet50 of the effdet package is not supported: its backbone ResNet-50 "),
        ("lite0.tar.gz", "'lite0.tar.gz' is not an official file; available for lite0: lite0$"),
    ],
)
def test_a_name_without_a_file_lists_those_that_exist(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        find_official(name)


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("efficientdet-lit0", "; did you mean 'lite0'?"),
        ("tf_efficientdet_light0", "; did you mean 'lite0'?"),
        ("efficientnet-b0-noisystudnet", "; did you mean 'efficientnet-b0-noisystudent'?"),
        ("tf_efficientnet_es", f"; {LIST}"),
        ("efficientnet-bo", f"; {LIST}"),
        ("efficientdet-mine", f"; {LIST}"),
        ("do", ""),  # it may be any file
        ("d0.pth", ""),
    ],
)
def test_a_name_that_is_nearly_official_is_answered_with_the_nearest(name: str, question: str) -> None:
    assert nearest_official(name) == question
    with pytest.raises(MissingFileError) as caught:
        open_checkpoint(name)
    assert str(caught.value).endswith(f" It is not an official name either{question}" if question else "the path.")
