"""Every format that can be written, and what it can hold: the one table, see `listing`.

A cell is *validated* by a test that runs the exported file and compares its outputs, and its detections if it has any,
with those of the model in PyTorch; it names that test. Otherwise it gives a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface, Outputs, Precision
from effdet_torch.engines.names import EXPORTERS, FORMAT_SUFFIXES
from effdet_torch.errors import ConfigError
from effdet_torch.export.detector import ExportedDetector, TensorRtDetector
from effdet_torch.export.settings import ExportSettings, Suppression
from effdet_torch.export.tflite.profile import operation_profile, why_not
from effdet_torch.export.writers.executorch_file import write_executorch
from effdet_torch.export.writers.onnx_file import write_onnx
from effdet_torch.export.writers.openvino_file import write_openvino
from effdet_torch.export.writers.program import Job, Written
from effdet_torch.export.writers.tflite_file import write_tflite
from effdet_torch.export.writers.torch_files import write_package, write_program, write_script
from effdet_torch.processing.profiles import Profile, own_profile

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
        runtime: what runs them.
        write: writes a file and those beside it.
        cells: a cell for each of `COLUMNS`.
        precisions: of weights and arithmetic.
        note: what a user must know; "" if nothing.
        nms_note: what a user must know of the detections inside; "" if nothing.
        detector: makes the detections inside a file, where its graph is made from a module.
        soft: whether it can suppress softly.
        is_run: whether there is an engine that runs it here.
        nms: what it has unless the user says otherwise.
        profile: what the detections inside have unless the user says otherwise.
        why_not: why it cannot hold something; "" if it can.
    """

    name: str
    runtime: str
    write: Callable[[Job, Path], Written]
    cells: Mapping[CellKey, Cell]
    precisions: tuple[Precision, ...] = ("float32",)
    note: str = ""
    nms_note: str = ""
    detector: type[ExportedDetector] = ExportedDetector
    soft: bool = True
    is_run: bool = True
    nms: Suppression = "none"
    profile: Callable[[EfficientDetConfig], Profile] = own_profile
    why_not: Callable[[Interface], str] = lambda _: ""

    @property
    def suffix(self) -> str:
        """The suffix of its files."""
        return FORMAT_SUFFIXES[self.name]

    @property
    def extra(self) -> str:
        """What to install for it, as `install_command` says; "" if nothing."""
        return EXPORTERS[self.name][0] if self.name in EXPORTERS else ""

    def notes(self, outputs: Outputs = "detections") -> list[str]:
        """Return what a user must know of a file."""
        return [note for note in (self.note, self.nms_note if outputs == "detections" else "") if note]

    def interface(self, settings: ExportSettings, config: EfficientDetConfig) -> Interface:
        """Return what a file of this format will take and return; see `ExportSettings.interface`.

        Raises:
            ConfigError: Settings and model do not fit.
        """
        chosen = settings if settings.nms is not None else replace(settings, nms=self.nms)
        if chosen.nms == "soft":
            self.require_soft()
        return chosen.interface(config, self.profile)

    def require_soft(self) -> None:
        """Refuse soft NMS where there is none.

        Raises:
            ConfigError: The format has hard NMS only.
        """
        if not self.soft:
            raise ConfigError(f"{self.name} has hard NMS only; pass --nms hard")


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
FIXED = "impossible: the official files have one image of fixed size, and so have these"
NO_LOOP = "impossible: tracing cannot hold the loop of the NMS"
NEVER_RUN = "it was never run, for want of TensorRT"
UNTESTED = "experimental: no test runs it"
UNTESTED_SIZE = (
    "experimental: torch.export may not end: if it takes longer than ten minutes, stop it and export fixed sizes"
)
CODE = "loading it can run code: only from a source that you trust"
NETWORK: tuple[CellKey, ...] = (("network", "static"), ("network", "batch"))
DETECTIONS: tuple[CellKey, ...] = (("detections", "static"), ("detections", "batch"))

FORMATS: Mapping[str, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            "ONNX Runtime",
            write_onnx,
            _cells("onnx", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            ("float32", "float16"),
        ),
        Format(
            "openvino",
            "OpenVINO",
            write_openvino,
            _cells("openvino", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            note="writes .xml and .bin",
        ),
        Format(
            "torch",
            "PyTorch",
            write_program,
            _cells("torch", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            note=CODE,
        ),
        Format(
            "aoti",
            "PyTorch",
            write_package,
            _cells(
                "aoti",
                ("network", "static"),
                network=UNTESTED,
                network_size=UNTESTED_SIZE,
                detections=UNTESTED,
                detections_size=ANCHORS,
            ),
            note=f"machine code for this kind of processor, made by a C++ compiler; {CODE}",
        ),
        Format(
            "torchscript",
            "PyTorch",
            write_script,
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
            "ExecuTorch",
            write_executorch,
            _cells(
                "executorch",
                ("network", "static"),
                network="impossible: XNNPACK needs fixed sizes",
                detections=UNTESTED,
                detections_size=ANCHORS,
            ),
            note="for the XNNPACK backend; the package needs an environment of its own",
        ),
        Format(
            "litert",
            "LiteRT",
            write_tflite,
            _cells(
                "litert",
                ("network", "static"),
                ("detections", "static"),
                network=FIXED,
                detections=FIXED,
            ),
            ("float32", "float16", "int8"),
            nms_note="the NMS inside is that of TFLite_Detection_PostProcess: hard, of all classes together (profile "
            "tflite), where TensorFlow's own graph has soft NMS; --nms none leaves it out",
            soft=False,
            nms="hard",
            profile=operation_profile,
            why_not=why_not,
        ),
        Format(
            "tensorrt",
            "TensorRT",
            write_onnx,
            _cells(
                "tensorrt",
                network="impossible: without NMS it is the format onnx",
                detections=f"experimental: {NEVER_RUN}",
                detections_size=ANCHORS,
            ),
            ("float32", "float16"),
            note=f"{NEVER_RUN}; hard NMS by the operator EfficientNMS_TRT of the domain TRT, which TensorRT alone has",
            detector=TensorRtDetector,
            soft=False,
            is_run=False,
        ),
    )
}


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
    if reason := row.why_not(interface):
        raise ConfigError(f"{row.name}: {reason}")
    if interface.profile.get("sigma"):
        row.require_soft()
    if interface.precision not in row.precisions:
        raise ConfigError(
            f"{row.name} is written in {' or '.join(row.precisions)}, not in {interface.precision}; choose another "
            "--precision or --format"
        )
    return cell
