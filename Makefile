# Two commands do all the set-up: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := demo

.PHONY: demo demo-report test install clean

# torch goes first and pinned: the newest torch would bring gigabytes of CUDA libraries.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch==2.13.*" "numpy<2.5"
	$(BIN)/pip install --quiet --editable ".[all]"
	touch $@

install: $(VENV)/installed

demo: install
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo.sh $(OUT)

# The report that the README shows, made anew by this code on this machine.
demo-report: demo
	for kind in html json md svg; do cp $(OUT)/report.$$kind docs/demo-report.$$kind; done

test: install
	@sh tests/system.sh
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -rs -n 2 --dist loadscope

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
