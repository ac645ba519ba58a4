# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Workers and tests share the cores: more OpenMP threads than cores are far slower than one.
export OMP_NUM_THREADS ?= 2

# Tests of the quick lane share nothing, so two processes do them; each computes with one thread.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

.PHONY: demo test quick nightly lint mini64 clean

demo: $(VENV)/.installed
	$(BIN)/python -m jobs.demo_clip demo/source.mp4
	$(BIN)/styleres edit demo/source.mp4 --edit smile=3 --out demo/edited.mp4 --store demo/store \
	    --contact-sheet demo/contact_sheet.png --side-by-side --overwrite
	$(BIN)/styleres render --store demo/store --edit bangs=3 --out demo/bangs.mp4 --overwrite
	$(BIN)/styleres inspect demo/store

test: $(VENV)/.installed lint
	$(PYTEST) -n 2 -m "not slow and not nightly" --durations=20
	$(PYTEST) -m "slow and not nightly" --durations=20

quick: $(VENV)/.installed
	$(PYTEST) -n 2 -m "not slow and not nightly"

nightly: $(VENV)/.installed
	$(PYTEST) -m nightly --durations=20

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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,test,train]"
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
