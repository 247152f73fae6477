"""Files of torch itself: exported programs, AOTInductor packages and TorchScript."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import torch

from effdet_torch.engines.file_engine import quiet
from effdet_torch.engines.runtimes.exported_program import DOCUMENT
from effdet_torch.export.writers.program import Job, Written, explained, exported_program


def write_program(job: Job, path: Path) -> Written:
    """Write an exported program, which the torch that reads it runs or compiles."""
    program = exported_program(job)
    content = BytesIO()  # onto a full disk, torch's own writer ends the process
    with quiet(), explained("torch.export"):
        torch.export.save(program, content, extra_files={DOCUMENT: job.document.to_json()})
    path.write_bytes(content.getbuffer())
    return [path]


def write_package(job: Job, path: Path) -> Written:
    """Write a package of machine code for this kind of processor, which needs a C++ compiler here."""
    from torch._inductor import aoti_compile_and_package  # late: torch's compiler

    program = exported_program(job)
    with quiet(), explained("AOTInductor"):
        aoti_compile_and_package(program, package_path=str(path))
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/{DOCUMENT}", job.document.to_json())
    return [path]


def write_script(job: Job, path: Path) -> Written:
    """Write TorchScript, by tracing."""
    with quiet(), explained("torch.jit"), torch.no_grad():
        script = torch.jit.trace(job.module, (job.example,), check_trace=False)  # type: ignore[no-untyped-call]
        content = script.save_to_buffer(_extra_files={DOCUMENT: job.document.to_json()})
    path.write_bytes(content)
    return [path]
