# Two commands for a fresh machine: `make demo` and `make test`.
#
# PIP_ARGS goes to every installation: an index, a proxy, a folder of wheels ...
#   make demo PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'   (torch without CUDA)
#   make demo PIP_ARGS='--no-index --find-links /media/wheels'
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := all
PIP_ARGS ?=
# uv is used where it is installed: it is several times faster. `make UV=` uses pip, and so does a
# machine where pip has settings of its own, an index, say: uv does not read them.
PIP_SETTINGS := $(wildcard /etc/pip.conf $(HOME)/.pip/pip.conf $(HOME)/.config/pip/pip.conf) \
	$(PIP_CONFIG_FILE)$(PIP_INDEX_URL)$(PIP_EXTRA_INDEX_URL)$(PIP_FIND_LINKS)
UV ?= $(if $(strip $(PIP_SETTINGS)),,$(shell command -v uv 2>/dev/null))
ifneq ($(UV),)
make_venv = $(UV) venv --quiet --seed --allow-existing --python $(PYTHON)
PIP := $(UV) pip install --quiet --python $(BIN)/python --index-strategy unsafe-best-match $(PIP_ARGS)
else
make_venv = $(PYTHON) -m venv
PIP := $(BIN)/python -m pip install --quiet $(PIP_ARGS)
endif
WITH ?=
# The suite starts hundreds of processes: what they import is compiled once, whatever is set here.
unexport PYTHONDONTWRITEBYTECODE
# One worker more than there are cores: a test that waits for a file or a process leaves its core
# to the others.
CORES := $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
WORKERS = --numprocesses=$(shell expr $(or $(CORES),1) + 1) --maxprocesses=8 --dist=worksteal

.PHONY: interop demo test test-fast test-lowest test-newest test-portable test-sdist wheel test-nightly notebooks links nightly-models round-trips lint types docs bench clean

$(STAMP): pyproject.toml hatch_build.py constraints.txt proto/dialect/schema.py $(wildcard proto/dialect/tables/*.tsv)
	$(make_venv) $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
	@$(BIN)/python .ci/fetch.py $(BIN)/python $(PIP_ARGS)
	$(PIP) --constraint constraints.txt --editable '.[$(EXTRAS)]' --group dev
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/caffeio demo -o demo

test: $(STAMP)
	$(BIN)/python -m pytest -q $(WORKERS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest -q $(WORKERS) -m 'not slow'

# The environments of the next three are made anew: another Python, or versions that have become
# newer, would stay unseen in an old one.
# The fast suite with the lowest version of everything that pyproject.toml promises.
test-lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet $(PIP_ARGS) --upgrade 'pip>=25.1'
	.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/floors.txt
	.venv-lowest/bin/python -m pip install --quiet $(PIP_ARGS) --constraint .venv-lowest/floors.txt --editable '.[$(EXTRAS)]' --group dev
	.venv-lowest/bin/python -m pytest -q $(WORKERS) -m 'not slow'

# The fast suite with the newest versions that the ranges allow; WITH asks for some by name.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet $(PIP_ARGS) --upgrade 'pip>=25.1'
	.venv-newest/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[$(EXTRAS)]' --group dev $(if $(WITH),'$(WITH)')
	.venv-newest/bin/python -m pytest -q $(WORKERS) -m 'not slow'

# What must pass on every system: texts, weights, layers, nets, conversions.
test-portable:
	$(PYTHON) -m venv --clear .venv-portable
	python=.venv-portable/bin/python; test -e $$python || python=.venv-portable/Scripts/python; \
	$$python -m pip install --quiet $(PIP_ARGS) --upgrade 'pip>=25.1' && \
	$$python -m pip install --quiet $(PIP_ARGS) --editable '.[hdf5,onnx,plot,safetensors]' --group dev && \
	$$python -m pytest -q $(WORKERS) -m 'not slow' tests/proto tests/layers tests/net tests/solver tests/converters

# The sdist holds all that its own suite needs; the wheel alone runs the demo.
test-sdist: wheel
	rm -rf build/sdist && mkdir -p build/sdist
	tar xzf dist/caffeio-*.tar.gz -C build/sdist --strip-components=1
	$(MAKE) -C build/sdist test
	$(PYTHON) -m venv build/wheel-only
	build/wheel-only/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt dist/caffeio-*.whl
	build/wheel-only/bin/caffeio demo -o build/demo

# The whole suite with what is too long for every push: other random examples, many more of them.
test-nightly: $(STAMP)
	$(PIP) --constraint constraints.txt --group definitions
	CAFFEIO_NIGHTLY=1 $(if $(CAFFEIO_MNIST),CAFFEIO_MNIST=$(CAFFEIO_MNIST)) $(BIN)/python -m pytest -q $(WORKERS)

# torchvision's models at full size as Caffe nets: its wheel must fit torch's, so it is no extra.
# NETS='resnet18 unet_resize' checks these only.
nightly-models:
	$(PYTHON) -m venv .venv-models
	.venv-models/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt \
	  --editable '.[onnx,torch-export]' torchvision
	.venv-models/bin/python tests/converters/from_onnx/nightly.py $(NETS)

# Every net at hand goes Caffe -> ONNX -> Caffe. WORDS='nets fuzz' picks those whose path holds one
# of them; with LOG=FILE it goes on where it stopped.
round-trips: $(STAMP)
	$(BIN)/python tests/converters/from_onnx/round_trips.py $(if $(LOG),--log $(LOG)) $(WORDS)

# What other programs make of converted models: each in an environment of its own, since OpenCV 4
# is our decoder. Without the public models (MODELS=FOLDER) only our own small nets take part.
interop: $(STAMP)
	$(PYTHON) -m venv .venv-opencv5
	.venv-opencv5/bin/python -m pip install --quiet $(PIP_ARGS) 'opencv-python-headless>=5,<6'
	$(PYTHON) -m venv .venv-openvino
	.venv-openvino/bin/python -m pip install --quiet $(PIP_ARGS) openvino
	$(PYTHON) -m venv .venv-mobile
	.venv-mobile/bin/python -m pip install --quiet $(PIP_ARGS) ncnn MNN
	.venv-mobile/bin/python -m pip install --quiet $(PIP_ARGS) --no-deps pnnx
	ln -sf $$(echo $(CURDIR)/.venv-mobile/lib/python*/site-packages/pnnx/pnnx) .venv-mobile/bin/pnnx  # its wrapper wants torch
	CAFFEIO_OPENCV5=$(CURDIR)/.venv-opencv5/bin/python CAFFEIO_OPENVINO=$(CURDIR)/.venv-openvino/bin/python \
	  CAFFEIO_NCNN=$(CURDIR)/.venv-mobile/bin/python CAFFEIO_MNN=$(CURDIR)/.venv-mobile/bin/python \
	  $(BIN)/python -m pytest -q tests/interop
	$(BIN)/python tests/interop/run.py $(if $(MODELS),--models $(MODELS) --write docs/interop.md) \
	  --python opencv5=.venv-opencv5/bin/python --python openvino=.venv-openvino/bin/python

# The notebooks of the examples, each from its first cell to its last.
notebooks: $(STAMP)
	$(PIP) --constraint constraints.txt --group notebooks
	cd examples/notebooks && ../../$(BIN)/python -m pytest -q --nbmake *.ipynb

wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	$(PIP) --constraint constraints.txt --group docs
	$(BIN)/mkdocs build --strict

# Every link of the site leads somewhere; LINKS=--external asks the other sites too.
LINKS :=
links: docs
	$(BIN)/python .ci/links.py site $(LINKS)

# All benchmarks with their defaults, 25 minutes on two idle cores; BENCH='text train' for some.
# What they print and one table of all figures go into docs/performance.md, with the machine and the versions.
BENCH :=
bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py $(BENCH)

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest .venv-portable .venv-models .venv-opencv5 .venv-openvino .venv-mobile \
	  build dist site demo examples/notebooks/training examples/notebooks/net.prototxt

# Coverage-guided fuzzing of every reader, one after the other; what is found lands in tests/fuzz/corpus.
.PHONY: fuzz
FUZZ_SECONDS := 60
FUZZ_TARGETS := weights solverstate blobproto hdf5 lmdb tensors npz onnx text nets sniff
fuzz: $(STAMP)
	$(PIP) --constraint constraints.txt --group fuzz
	for target in $(FUZZ_TARGETS); do \
	  $(BIN)/python tests/fuzz/run.py $$target --atheris -max_total_time=$(FUZZ_SECONDS) \
	    -print_final_stats=1 || exit 1; done
