"""Every format that can be written, and what it can hold: the one table, see `listing`.

A cell is *validated* by a test that runs the exported file and compares its outputs, and its detections if it has any,
with those of the model in PyTorch; it names that test. Otherwise it gives a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effdet_torch.engines.document import Interface, Outputs, Precision
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.export.writers.program import Job, Written

Shape = Literal["static", "batch", "size"]
Status = Literal["validated", "experimental", "impossible"]
CellKey = tuple[Outputs, Shape]

TESTS = "tests/unit/effdet_torch/export/test_cells.py::test_cell"
COLUMNS: tuple[CellKey, ...] = (
    ("network", "static"),
    ("network", "batch"),
    ("network", "size"),
    ("detections", "static"),
    ("detections", "batch"),
    ("detections", "size"),
)
SHAPES: Mapping[Shape, str] = {"static": "fixed sizes", "batch": "any batch", "size": "any image size"}


@dataclass(frozen=True)
class Cell:
    """What is known of one use of a format.

    Attributes:
        status: whether it works.
        text: the id of the test of a validated cell; the reason of another.
    """

    status: Status
    text: str


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as `--format` takes it.
        suffix: of its files.
        runtime: what runs them.
        extra: what to install for it, as in effdet-convert[EXTRA]; "" if nothing.
        write: writes a file and those beside it.
        cells: a cell for each of `COLUMNS`.
        precisions: of weights and arithmetic.
        note: what a user must know; "" if nothing.
    """

    name: str
    suffix: str
    runtime: str
    extra: str
    write: Callable[[Job, Path], Written]
    cells: Mapping[CellKey, Cell]
    precisions: tuple[Precision, ...] = ("float32",)
    note: str = ""


def _onnx(job: Job, path: Path) -> Written:
    from effdet_torch.export.writers.onnx_file import write_onnx

    return write_onnx(job, path)


def _openvino(job: Job, path: Path) -> Written:
    from effdet_torch.export.writers.openvino_file import write_openvino

    return write_openvino(job, path)


def _torch(job: Job, path: Path) -> Written:
    from effdet_torch.export.writers.torch_files import write_program

    return write_program(job, path)


def _aoti(job: Job, path: Path) -> Written:
    from effdet_torch.export.writers.torch_files import write_package

    return write_package(job, path)


def _torchscript(job: Job, path: Path) -> Written:
    from effdet_torch.export.writers.torch_files import write_script

    return write_script(job, path)


def _executorch(job: Job, path: Path) -> Written:
    from effdet_torch.export.writers.executorch_file import write_executorch

    return write_executorch(job, path)


def _cells(name: str, *validated: CellKey, **reasons: str) -> dict[CellKey, Cell]:
    """Return the cells of a format: tested ones, and for the others a status and a reason, "STATUS: REASON"."""
    cells = {}
    for outputs, shape in COLUMNS:
        if (outputs, shape) in validated:
            cells[outputs, shape] = Cell("validated", f"{TESTS}[{name}-{outputs}-{shape}]")
        else:
            status, _, reason = (reasons.get(f"{outputs}_{shape}") or reasons[outputs]).partition(": ")
            cells[outputs, shape] = Cell("impossible" if status == "impossible" else "experimental", reason)
    return cells


ANCHORS = "impossible: the anchors depend on the image size"
NO_LOOP = "impossible: tracing cannot hold the loop of the NMS"
UNTESTED_SIZE = "experimental: no test runs it"
CODE = "loading it can run code: only from a source that you trust"
NETWORK: tuple[CellKey, ...] = (("network", "static"), ("network", "batch"))
DETECTIONS: tuple[CellKey, ...] = (("detections", "static"), ("detections", "batch"))

FORMATS: Mapping[str, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            ".onnx",
            "ONNX Runtime",
            "onnx",
            _onnx,
            _cells("onnx", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            ("float32", "float16"),
        ),
        Format(
            "openvino",
            ".xml",
            "OpenVINO",
            "openvino",
            _openvino,
            _cells("openvino", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            note="writes .xml and .bin",
        ),
        Format(
            "torch",
            ".pt2",
            "PyTorch",
            "",
            _torch,
            _cells("torch", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            note=CODE,
        ),
        Format(
            "aoti",
            ".pt2",
            "PyTorch",
            "",
            _aoti,
            _cells(
                "aoti",
                ("network", "static"),
                network=UNTESTED_SIZE,
                detections=UNTESTED_SIZE,
                detections_size=ANCHORS,
            ),
            note=f"machine code for this kind of processor, made by a C++ compiler; {CODE}",
        ),
        Format(
            "torchscript",
            ".torchscript",
            "PyTorch",
            "",
            _torchscript,
            _cells(
                "torchscript",
                ("network", "static"),
                network="impossible: tracing keeps the sizes of its example",
                detections=NO_LOOP,
            ),
            note=f"deprecated by PyTorch; {CODE}",
        ),
        Format(
            "executorch",
            ".pte",
            "ExecuTorch",
            "executorch",
            _executorch,
            _cells(
                "executorch",
                ("network", "static"),
                network="impossible: XNNPACK needs fixed sizes",
                detections="experimental: no test runs it",
                detections_size=ANCHORS,
            ),
            note="for the XNNPACK backend; the package needs an environment of its own",
        ),
    )
}


def choose_format(suffix: str, name: str | None) -> Format:
    """Return the format of a name, or of a file's suffix.

    Raises:
        UsageError: Neither says which one, or both contradict each other.
    """
    by_suffix = [row for row in FORMATS.values() if row.suffix == suffix.lower()]
    if name is None:
        if not by_suffix:
            known = ", ".join(dict.fromkeys(row.suffix for row in FORMATS.values()))
            raise UsageError(f"the suffix {suffix!r} is not one of {known}; rename OUT or pass --format")
        return by_suffix[0]
    chosen = FORMATS[name]
    if chosen not in by_suffix:  # the engines know files by their suffix
        raise UsageError(f"a file of the format {name} ends in {chosen.suffix}, not {suffix!r}; rename OUT")
    return chosen


def shape_of(interface: Interface) -> Shape:
    """Return which dimensions of a file's input are free."""
    if interface.image_size is None:
        return "size"
    return "batch" if interface.batch is None else "static"


def require_possible(row: Format, interface: Interface) -> Cell:
    """Return the cell of a file.

    Raises:
        ConfigError: The format cannot hold it.
    """
    shape = shape_of(interface)
    cell = row.cells[interface.outputs, shape]
    if cell.status == "impossible":
        raise ConfigError(
            f"{row.name} cannot hold {interface.outputs} with {SHAPES[shape]}: {cell.text}; "
            "effdet-export --list shows what each format can hold"
        )
    if interface.precision not in row.precisions:
        raise ConfigError(
            f"{row.name} is written in {' or '.join(row.precisions)}, not in {interface.precision}; choose another "
            "--precision or --format"
        )
    return cell
