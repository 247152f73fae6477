"""The batches of a training: the same whatever reads them, and every image that a data set has."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effdet_torch.config import get_config
from effdet_torch.data.dataset import DataImage, DataObject, DataSet
from effdet_torch.errors import ConfigError, EffdetError, EvaluationError
from effdet_torch.inference.images import ImageError
from effdet_torch.processes import Processes
from effdet_torch.train.input import samples as samples_module
from effdet_torch.train.input.loader import Batch, TrainLoader
from effdet_torch.train.input.order import Order
from effdet_torch.train.input.samples import Samples
from effdet_torch.train.objective.targets import TargetAssigner
from effdet_torch.train.recipe import Recipe, make_recipe
from effdet_torch.untrusted.files import FilePart

CONFIG = get_config("d0", image_size=(128, 128))
ASSIGNER = TargetAssigner(CONFIG)
RECIPE = make_recipe("default", batch=2, seed=5, augment=("mosaic", "gridmask", "autoaugment-v0", "flip", "scale"))
SIZE = (60, 40)  # width, height


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Seven images with one object less than their id, the last of them a crowd."""
    random, images, objects = np.random.default_rng(0), [], []
    for number in range(1, 8):
        path = tmp_path / f"image {number}.png"
        Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(path)
        images.append(DataImage(number, path, SIZE))
        for row in range(number - 1):
            box = (float(row), 2.0 * row, 20.0 + row, 10.0)
            objects.append(DataObject(number, row + 1, box, 200.0, row == number - 2 and number == 7))
    return DataSet("train", tmp_path, tuple(images), {n: f"class {n}" for n in range(1, 8)}, tuple(objects[::-1]))


def loader(data: DataSet, recipe: Recipe = RECIPE, **settings: Any) -> TrainLoader:
    return TrainLoader(data, CONFIG, recipe, ASSIGNER, **{"workers": 0, **settings})


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.image_ids == other.image_ids
        assert torch.equal(one.images, other.images)
        assert all(map(torch.equal, one.targets, other.targets))
        assert all(map(torch.equal, one.boxes_xyxy, other.boxes_xyxy))
        assert all(map(torch.equal, one.labels, other.labels))


def test_a_batch_has_what_the_network_and_the_loss_take(data: DataSet) -> None:
    batches = list(loader(data, replace(RECIPE, augment=())).batches(0, 7))
    assert len(batches) == 7  # two epochs: the fourth batch has the last image of the first and one of the second
    ids = [number for batch in batches for number in batch.image_ids]
    assert sorted(ids[:7]) == sorted(ids[7:]) == list(range(1, 8))
    assert ids[:7] != sorted(ids[:7])
    assert ids[:7] != ids[7:]
    for batch in batches:
        assert batch.images.shape == (2, 3, 128, 128)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous()
        for number, boxes, labels in zip(batch.image_ids, batch.boxes_xyxy, batch.labels, strict=True):
            count = number - 1 - (number == 7)  # without the crowd
            assert labels.tolist() == list(range(1, number))[::-1][-count:] if count else not len(labels)
            assert labels.dtype == torch.int64
            factor = 128 / 60
            expected = [[x * factor for x in (n - 1, 2 * n - 2, 19 + 2 * n - 1, 2 * n + 8)] for n in labels.tolist()]
            np.testing.assert_allclose(boxes.reshape(-1, 4), np.reshape(expected, (-1, 4)), atol=1.5)
        assert all(map(torch.equal, batch.targets, ASSIGNER(batch.boxes_xyxy, batch.labels)))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(data: DataSet, workers: int) -> None:
    read = loader(data, workers=workers)
    for start in (0, 4):
        assert_same(list(read.batches(start, start + 3)), list(loader(data).batches(start, start + 3)))


def test_seed_and_epoch_change_the_batches(data: DataSet) -> None:
    first, second = (next(loader(data).batches(start, start + 1)) for start in (0, 7))
    other = next(loader(data, replace(RECIPE, seed=6)).batches(0, 1))
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)
    with pytest.raises(AssertionError):
        assert_same([first], [second])  # negative control of the comparison


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_continues_at_any_batch(data: DataSet, workers: int) -> None:
    whole = list(loader(data).batches(9, 13))
    read = loader(data, workers=workers)
    assert_same(list(read.batches(10, 13)), whole[1:])
    assert_same(list(read.batches(9, 13)), whole)
    assert list(read.batches(12, 12)) == []


def test_skipped_images_are_not_read(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, read = replace(RECIPE, augment=("flip",)), []
    real = samples_module.read_image

    def spy(path: Path, apply_exif: bool = False) -> Any:
        read.append(path.name)
        return real(path, apply_exif)

    monkeypatch.setattr(samples_module, "read_image", spy)
    rest = list(loader(data, recipe).batches(2, 3))
    assert read == [f"image {number}.png" for number in rest[0].image_ids]


def test_an_interrupted_epoch_leaves_nothing_behind(data: DataSet) -> None:
    read = loader(data, workers=2)
    next(read.batches(0, 3))
    assert_same(list(read.batches(3, 6)), list(loader(data).batches(3, 6)))


def test_processes_together_read_what_one_with_their_batches_reads(data: DataSet) -> None:
    alone = list(loader(data, replace(RECIPE, batch=4)).batches(0, 3))
    parts = [list(loader(data, processes=Processes(rank, 2)).batches(0, 3)) for rank in (0, 1)]
    for rank, batches in enumerate(parts):
        for batch, whole in zip(batches, alone, strict=True):
            assert batch.image_ids == whole.image_ids[rank::2]
            assert torch.equal(batch.images, whole.images[rank::2])


def test_several_processes_have_every_image_once_in_an_epoch() -> None:
    orders = [Order(960, 8, 0, Processes(rank, 3)) for rank in range(3)]
    for order in orders:
        order.choose(80, 120)  # the third epoch
    taken = [key.sample for order in orders for batch in order for key in batch]
    assert sorted(taken) == list(range(960))
    # Every batch of all processes together is the one of a single process with a batch three times as large.
    single = Order(960, 24, 0)
    single.choose(80, 120)
    for together, parts in zip(single, zip(*orders, strict=True), strict=True):
        assert sorted(key for part in parts for key in part) == together


def test_fewer_images_than_a_batch_are_repeated_with_other_augmentations(data: DataSet) -> None:
    (batch,) = loader(data, replace(RECIPE, batch=14)).batches(0, 1)
    assert sorted(batch.image_ids) == sorted([*range(1, 8)] * 2)
    first, second = (n for n, number in enumerate(batch.image_ids) if number == 7)
    assert not torch.equal(batch.images[first], batch.images[second])


def test_images_inside_a_larger_file_are_read(data: DataSet, tmp_path: Path) -> None:
    content = data.images[2].path.read_bytes()
    (tmp_path / "all").write_bytes(b"before" + content + b"behind")
    inside = data.images[2]._replace(path=tmp_path / "all", part=FilePart(tmp_path / "all", 6, len(content), "third"))
    expected, found = Samples(data).read(2), Samples(replace(data, images=(inside,))).read(0)
    assert np.array_equal(found.image, expected.image)
    assert len(found.labels) == len(expected.labels) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_ends_the_epoch_with_its_name(data: DataSet, workers: int) -> None:
    data.images[3].path.write_bytes(data.images[3].path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"image 4\.png is damaged") as error:
        list(loader(data, replace(RECIPE, batch=7), workers=workers).batches(0, 1))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), EffdetError),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), EffdetError),
        (EOFError(), EffdetError),
        (ConnectionResetError(), EffdetError),
        (RuntimeError("another fault"), RuntimeError),
    ],
)
def test_a_worker_that_the_system_ended_is_reported_with_what_helps(
    data: DataSet, error: Exception, expected: type[Exception]
) -> None:
    """With stand-ins for PyTorch's errors: it raises them in a signal handler, at any moment."""

    def failing() -> Iterator[Any]:
        raise error
        yield

    read = loader(data)
    read._loader = failing()  # type: ignore[assignment]
    what = "ended from outside .* pass fewer --workers" if expected is EffdetError else "another fault"
    with pytest.raises(expected, match=what):
        next(read.batches(0, 1))


def test_a_signal_to_all_processes_leaves_the_workers_to_their_parent(data: DataSet) -> None:
    """torchrun and batch systems send SIGTERM to workers, too; the parent still needs its batch."""
    expected = list(loader(data).batches(0, 3))
    others, batches = set(multiprocessing.active_children()), loader(data, workers=1).batches(0, 3)
    found = [next(batches)]
    (worker,) = set(multiprocessing.active_children()) - others
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert_same([*found, *batches], expected)
    worker.terminate()  # as Python does at its end, where it would wait forever
    worker.join(20)
    assert worker.exitcode == 0


def test_workers_that_are_not_forked_get_all_that_they_need(data: DataSet) -> None:
    order, reader = Order(7, 2, RECIPE.seed), loader(data)._loader.dataset
    order.choose(0, 3)
    found = [pickle.loads(pickle.dumps(reader))[keys].batch() for keys in order]
    assert_same(found, list(loader(data).batches(0, 3)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_no_generator_takes_is_refused_before_anything_is_read(seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"seed is {seed}; expected 0 or more, below 2\^64"):
        make_recipe(seed=seed)
    torch.manual_seed(make_recipe(seed=2**64 - 1).seed)  # negative control


def test_a_data_set_without_images_is_refused(data: DataSet) -> None:
    with pytest.raises(EvaluationError, match="has no images to train on"):
        loader(replace(data, images=()))
    with pytest.raises(ConfigError, match="'flop' is unknown"):
        loader(data, replace(RECIPE, augment=("flop",)))


def test_crowds_are_trained_if_the_recipe_says_so(data: DataSet) -> None:
    for keep, count in ((False, 5), (True, 6)):
        assert len(Samples(data, keep).read(6).labels) == count


def test_objects_keep_the_order_of_the_file(data: DataSet) -> None:
    """Ties between boxes are decided by it."""
    assert Samples(data).read(5).labels.tolist() == [5, 4, 3, 2, 1]
    assert Samples(replace(data, objects=data.objects[::-1])).read(5).labels.tolist() == [1, 2, 3, 4, 5]


def test_photographs_are_turned_where_the_boxes_say_so(data: DataSet, tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (40, 20), "red"), Image.Exif()
    exif[0x112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    for turned, shape in ((True, (40, 20, 3)), (False, (20, 40, 3))):
        entry = DataImage(1, tmp_path / "turned.jpg", None, turned)
        assert Samples(replace(data, images=(entry,))).read(0).image.shape == shape


def test_an_image_inside_a_larger_file_is_read_from_there(data: DataSet, tmp_path: Path) -> None:
    contents = [image.path.read_bytes() for image in data.images[:2]]
    (tmp_path / "all").write_bytes(b"".join(contents))
    part = FilePart(tmp_path / "all", len(contents[0]), len(contents[1]), "two é")
    samples = Samples(replace(data, images=(data.images[0], data.images[1]._replace(path=part.path, part=part))))
    again = pickle.loads(pickle.dumps(samples))
    assert [again.source(0), again.source(1)] == [data.images[0].path, part]
    expected = Samples(data)
    for index in (0, 1):
        np.testing.assert_array_equal(again.read(index).image, expected.read(index).image)
    assert not np.array_equal(again.read(0).image, again.read(1).image)


def test_boxes_are_fractions_of_the_annotated_size_and_clipped_to_the_image(data: DataSet) -> None:
    image = data.images[0]._replace(size=(120, 80))  # annotated before the image was scaled down
    box = DataObject(1, 1, (60.0, -8.0, 90.0, 48.0), 1.0, False)
    for size, expected in (((120, 80), [[0, 0.5, 0.5, 1]]), (None, np.zeros((0, 4)))):  # then it begins at the edge
        found = Samples(replace(data, images=(image._replace(size=size),), objects=(box,))).read(0)
        np.testing.assert_allclose(found.boxes, expected)
        assert len(found.labels) == len(expected)


@pytest.mark.parametrize(
    ("fill", "settings", "expected"),
    [
        ("mean", {}, [0.0] * 3),
        ("0", {}, [-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375]),
        ("mean", {"normalization": "advprop"}, [-1.0] * 3),
        ("0", {"normalization": "advprop"}, [-1.0] * 3),
    ],
)
def test_the_canvas_has_the_colour_of_the_recipe(
    data: DataSet, fill: Any, settings: dict[str, Any], expected: list[float]
) -> None:
    config, recipe = replace(CONFIG, **settings), replace(RECIPE, fill_color=fill, augment=())
    batch = next(TrainLoader(data, config, recipe, ASSIGNER, workers=0).batches(0, 1))
    np.testing.assert_allclose(batch.images[0, :, -1, -1], expected, rtol=1e-6)
    assert batch.images[0, :, 0, 0].tolist() != expected


def test_torchs_own_random_numbers_are_left_alone(data: DataSet) -> None:
    """A resumed training opens the loader more often, and must go on with the same numbers."""
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(loader(data, workers=workers).batches(0, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_many_images_are_small_and_fast_to_send() -> None:
    count = 100_000
    images = tuple(DataImage(n, Path(f"/data/train/{n:012d}.jpg"), (640, 480)) for n in range(count))
    objects = tuple(DataObject(n % count, n % 80 + 1, (1.0, 2.0, 3.0, 4.0), 12.0, False) for n in range(3 * count))
    samples = Samples(DataSet("train", Path("x.json"), images, {1: ""}, objects))
    texts = (samples._paths, samples._names)
    held = [value for holder in (samples, *texts) for value in vars(holder).values()]
    assert [value for value in held if not isinstance(value, np.ndarray)] == list(texts)
    start = time.perf_counter()
    content = pickle.dumps(samples, 5)
    again = pickle.loads(content)
    assert time.perf_counter() - start < 1
    assert len(content) < 250 * count
    assert again.source(99_999) == images[-1].path
