"""Writing all reports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from effdet_torch.errors import OutputError
from support.verification_samples import FAILING, SAMPLES
from verify.report import write as report
from verify.report.html import to_html
from verify.report.json import to_json
from verify.report.junit import to_junit
from verify.report.markdown import to_markdown
from verify.report.write import write_reports
from verify.results.verification import Verification

NAMES = ["report.json", "junit.xml", "summary.md", "report.html"]
ROOT = Path(__file__).parents[4]


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def test_writes_all_of_them_into_a_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    paths = write_reports(FAILING, folder)
    assert [path.name for path in paths] == NAMES
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert all(path.stat().st_size > 1000 for path in paths)


def test_replaces_an_earlier_run(tmp_path: Path) -> None:
    write_reports(SAMPLES["hostile"], tmp_path)
    write_reports(SAMPLES["empty"], tmp_path)
    assert (tmp_path / "report.json").read_text() == to_json(SAMPLES["empty"])


def test_writes_nothing_when_one_of_them_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(report, "REPORTS", {**report.REPORTS, "report.html": fail})
    with pytest.raises(RuntimeError, match="no page"):
        write_reports(SAMPLES["empty"], tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


def test_refuses_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("mine")
    with pytest.raises(OutputError, match="choose another folder"):
        write_reports(SAMPLES["empty"], tmp_path / "reports")
    assert (tmp_path / "reports").read_text() == "mine"


def test_importing_the_reports_is_cheap() -> None:
    heavy = {"jinja2", "rich", "torch", "tensorflow"}
    assert not heavy & imported_by("import verify.report.write")
    assert {"rich"} == heavy & imported_by("import verify.report.write, rich")


@pytest.mark.parametrize("render", [to_html, to_json, to_markdown, lambda report: to_junit(report).decode()])
def test_no_report_of_an_evaluation_alone_looks_green(render: Callable[[Verification], str]) -> None:
    """JUnit has no third state but "skipped"."""
    alone = render(SAMPLES["evaluated_only"])
    assert "PASS" not in alone
    assert "verdict pass" not in alone
    assert "EVALUATED" in alone or alone.count("<testcase") == alone.count("<skipped") == 2
    compared = render(SAMPLES["evaluated"])
    assert "EVALUATED" not in compared
    assert "<skipped" not in compared
