PYTHON ?= python
CHECKPOINT ?= ../shared/trained_d0_256

.PHONY: check format lint types test slow exports parity bench

check: lint types test

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n logical

slow:
	$(PYTHON) -m pytest -n logical -m slow

# ExecuTorch wants a torch of its own choice, so it gets an environment of its own.
exports:
	$(PYTHON) -m venv build/exports
	build/exports/bin/pip install -e '.[dev,executorch]'
	build/exports/bin/python -m pytest -m slow tests/unit/effdet_torch/export/test_cells.py

parity:
	mkdir -p reports
	effdet-convert $(CHECKPOINT) reports/model.pth --report reports/conversion.json
	effdet-verify reports/model.pth --reference $(CHECKPOINT) --report-dir reports/parity

bench:
	$(PYTHON) -m benchmarks.conversion
