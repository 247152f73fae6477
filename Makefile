PYTHON ?= python
CHECKPOINT ?= ../shared/trained_d0_256

.PHONY: check format lint types test slow parity bench

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

parity:
	mkdir -p reports
	effdet-convert $(CHECKPOINT) reports/model.pth --report reports/conversion.json
	effdet-verify reports/model.pth --reference $(CHECKPOINT) --report-dir reports/parity

bench:
	$(PYTHON) -m benchmarks.conversion
