# Everything a newcomer needs; each target sets up .venv first.
#   make image PROMPT="a 3d render of a red apple on a blue background"
#   make test
# If you change the code, run this before each commit:
#   make check

PYTHON ?= python3
PROMPT ?= a 3d render of a red apple on a blue background
NOTEBOOKS ?= $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)
CHAPTERS ?= $(wildcard notebooks/*.ipynb)
ANSWERS ?= answers
BIN := .venv/bin
TEMPLATES := --TemplateExporter.extra_template_basedirs=notebooks/templates

.PHONY: image test check course notebooks setup-cells html site slides handout answers parity clean

image: .venv/ready  ## draw a picture from PROMPT with the mini model
	@$(BIN)/python -m minisd generate "$(PROMPT)" --out out

course: .venv/ready  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: .venv/ready-dev  ## run all notebooks again, or those named in NOTEBOOKS, and store their outputs
	OMP_NUM_THREADS=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace $(NOTEBOOKS)

setup-cells: .venv/ready-dev  ## write the address in pyproject.toml, where Colab and Kaggle fetch the course, into all notebooks
	$(BIN)/python -m tests.notebooks.setup_cell

html: .venv/ready-dev  ## convert the notebooks to web pages with all pictures, in out/html
	$(BIN)/jupyter nbconvert --to html --template page $(TEMPLATES) --output-dir out/html $(CHAPTERS)

site: .venv/ready-dev  ## the course as web pages, and the page that draws, in out/site; needs Node.js (see README)
	$(BIN)/python -m web.build

slides: .venv/ready-dev  ## convert the notebooks to slides for a browser, in out/slides
	$(BIN)/jupyter nbconvert --to slides --template lecture $(TEMPLATES) --TemplateExporter.exclude_input_prompt=True --TemplateExporter.exclude_output_prompt=True --SlidesExporter.reveal_width=1280 --SlidesExporter.reveal_height=720 --output-dir out/slides $(CHAPTERS)

handout: .venv/ready-dev  ## make what students get, without solutions or outputs: the folder out/handout and out/handout.zip
	rm -rf out/handout out/handout.zip build
	$(BIN)/jupyter nbconvert --to notebook --ClearOutputPreprocessor.enabled=True --output-dir out/handout $(CHAPTERS)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir out/handout .
	cp notebooks/START.md requirements.txt out/handout
	if test -d out/site; then cp -r out/site out/handout/site; fi  # for `minisd play`, where `make site` was run before
	$(BIN)/python -m zipfile -c out/handout.zip out/handout

answers: .venv/ready  ## list the right answers in the notebooks that students handed in (folder ANSWERS); table: out/answers.csv
	$(BIN)/python -P -m minisd.exercises "$(ANSWERS)" --table out/answers.csv

test: .venv/ready-dev  ## lint and check types, then run all tests; each worker gets one thread, so that they do not compete for cores
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope

check: .venv/ready-dev  ## find most of what `make test` would find, in under 90 seconds on two cores: lint, types, quick tests
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope -m "not slow" tests/unit

parity: .venv/ready-dev  ## measure the differences from diffusers and transformers, and rewrite the README's table
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.parity.test_networks

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("minisd needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv build *.egg-info out
