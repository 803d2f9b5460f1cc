# Three commands do all the set-up: make demo, make check (minutes), make test (all).
# The newest Python that fits and can make a virtual environment.
FITS := import sys, ensurepip; assert (3, 11) <= sys.version_info[:2] <= (3, 13)
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,\
	$(shell $(name) -c '$(FITS)' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what it imports, once; pip would compile the thousands of files that nobody imports too.
PIP = $(BIN)/pip install --quiet --no-compile
# Where the environment forbids that, as images for containers do, each of a test's processes would compile torch.
unexport PYTHONDONTWRITEBYTECODE
OUT := demo

.PHONY: demo demo-zones demo-report check test lint types system unit whole rooms benchmarks results install clean

# torch goes first and pinned: the converters are made for this one, and another brings other libraries with it.
$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 that can make a virtual environment is on the PATH." \
	    "Install one (Debian: python3 and python3-venv), or name one: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==2.13.*" "numpy<2.5"
	$(PIP) --editable ".[all]"
	touch $@

# NVIDIA's parser is proprietary and optional: tests and the demo install it, and go without where there is none.
$(VENV)/trt-check: $(VENV)/installed
	$(PIP) --editable ".[trt-check]" && touch $@ || \
	    echo "no tensorrt-rtx for this machine: NVIDIA's parser is not asked, and its tests are skipped"

install: $(VENV)/installed

demo: install $(VENV)/trt-check
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo.sh $(OUT)
	@echo "edgepv is installed in $(VENV); once in each shell:  . $(BIN)/activate"

# The report that the README shows, made anew by this code on this machine.
demo-report: demo
	for kind in html json md svg; do cp $(OUT)/report.$$kind docs/demo-report.$$kind; done

# Persons in a zone, on the video of examples/; the picture of docs/zones.md is made by it.
demo-zones: install
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo_zones.sh $(OUT)
	cp $(OUT)/zones/person-zone.jpg docs/person-zone.jpg

# Every committed result anew, those of this commit left: hours, on a quiet machine. DATA: the labelled clips;
# NATURAL: the natural video. Can be stopped and called again.
benchmarks: install
	$(BIN)/python benchmarks/results.py $(if $(DATA),--data $(DATA)) $(if $(NATURAL),--natural $(NATURAL))

# benchmarks/RESULTS.md from the committed results.
results: install
	$(BIN)/python benchmarks/results.py --page

# What to run after every edit: all of it but the tests marked slow. mypy takes one core, so it runs beside the tests.
check: install
	@$(MAKE) --no-print-directory -j 2 lint types unit

# pip takes one core, and waits for its downloads: what Debian has is installed beside it.
test:
	@$(MAKE) --no-print-directory -j 2 install system
	@$(MAKE) --no-print-directory -j 2 lint types whole

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

# The programs that tests start.
system:
	@sh tests/system.sh

whole: $(VENV)/trt-check

# Workers take whole files (module fixtures are made once), in the order that tests/conftest.py puts them in.
unit whole: lint
	$(BIN)/pytest -q -n 2 --dist loadscope --no-loadscope-reorder $(if $(filter unit,$@),-m "not slow" --durations 5)

# The table of rooms in CONTRIBUTING.md, from the rooms' docstrings.
rooms: install
	$(BIN)/python tests/rooms.py

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
