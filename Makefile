# Two commands are enough: `make demo` and `make test`. Each installs what it needs into .venv and build/.

VENV ?= .venv
PY := $(VENV)/bin/python
BIN := $(abspath $(VENV))/bin
JOBS ?= 2
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-gpu bench-gpu lint fmt typecheck ctest pytest bench clean help

help:
	@echo "make demo       the main job end to end, on this machine"
	@echo "make test       install, build the C++, then ruff, mypy, ctest and pytest"
	@echo "make test-gpu   what needs an NVIDIA GPU"
	@echo "make bench-gpu  what only a GPU can tell, into OUT=benchmarks/results/NAME"
	@echo "make lint|fmt   check or mend the style"
	@echo "make bench      the benchmarks that a CPU can run"
	@echo "make clean      remove .venv and build"

$(INSTALLED): pyproject.toml constraints.txt tools/setup.sh
	VENV=$(VENV) tools/setup.sh
	@touch $@

demo: $(INSTALLED)
	$(PY) examples/demo.py

test: lint typecheck ctest pytest

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

fmt: $(INSTALLED)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

typecheck: $(INSTALLED)
	$(VENV)/bin/mypy

# The kernels compiled for two architectures, the runtime for the car, and the tests of both; then the same tests under the
# sanitizers. Without nvcc (setup.sh brings one where it can) the kernels are left out.
PLUGINS := build/plugins-ci
RUNTIME := build/runtime-ci
CONFIGURE = CUDACXX=$$(cat $(VENV)/nvcc) $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja -DQDBEV_WERROR=ON
ORT_HEADERS = $$(ls -d $(abspath $(VENV))/onnxruntime 2>/dev/null | sed 's/^/-DONNXRUNTIME_ROOT=/')
ctest: $(INSTALLED)
	$(CONFIGURE) -S plugins -B $(PLUGINS) -DCMAKE_BUILD_TYPE=Release "-DQDBEV_CUDA_ARCHS=80;87"
	$(CONFIGURE) -S plugins -B $(PLUGINS)-sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DQDBEV_CUDA=OFF -DQDBEV_SANITIZE=ON
	$(CONFIGURE) -S runtime -B $(RUNTIME) -DCMAKE_BUILD_TYPE=Release $(ORT_HEADERS)
	$(CONFIGURE) -S runtime -B $(RUNTIME)-sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DQDBEV_SANITIZE=ON $(ORT_HEADERS)
	for folder in $(PLUGINS) $(RUNTIME) $(PLUGINS)-sanitize $(RUNTIME)-sanitize; do \
	    $(BIN)/cmake --build $$folder --parallel $(JOBS) && $(BIN)/ctest --test-dir $$folder --output-on-failure || exit 1; \
	done

# Two processes with one torch thread each are faster on two cores than one with two.
pytest: ctest
	PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 QDBEV_PLUGIN_LIBRARY=$(CURDIR)/$(PLUGINS)/libqdbev_plugins.so QDBEV_RUNTIME_TESTS=$(CURDIR)/$(RUNTIME) $(VENV)/bin/pytest -n $(JOBS)

# TensorRT and cuda-python where $(VENV) has none yet (PyCUDA would want a CUDA toolkit to be built with); plugins and the
# runtime for this machine's GPU, against the headers of TENSORRT_ROOT or the system, else those of TensorRT 10, which are
# downloaded. A test that has to be skipped fails here, so that a green run is one in which engines were built.
TENSORRT ?= tensorrt>=10.3,<11
test-gpu: $(INSTALLED)
	$(PY) -c 'import tensorrt' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt '$(TENSORRT)'
	$(PY) -c 'import pycuda.driver' 2>/dev/null || $(PY) -c 'import cuda.bindings' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt 'cuda-python<13'
	PATH="$(BIN):$$PATH" CUDACXX=$$(cat $(VENV)/nvcc) $(BIN)/qdbev-deploy plugins build --fetch-headers
	$(CONFIGURE) -S runtime -B build/runtime -DCMAKE_BUILD_TYPE=Release -DQDBEV_FETCH_TENSORRT_HEADERS=ON $(ORT_HEADERS)
	$(BIN)/cmake --build build/runtime --parallel $(JOBS)
	PATH="$(BIN):$$PATH" QDBEV_REQUIRE_GPU=1 QDBEV_RUNTIME_TESTS=$(CURDIR)/build/runtime $(BIN)/pytest tests/gpu -v

# All that only a GPU can tell, into OUT: kernels, engines of every variant beside the peers' way, the C++ runtime.
# VARIANTS="tiny" is a shorter one; what is there already is not measured again.
OUT ?= benchmarks/results/gpu
VARIANTS ?= tiny small base
ENGINES := build/engines
bench-gpu: test-gpu
	$(PY) benchmarks/kernels.py
	$(PY) benchmarks/peer.py --checkpoint examples/micro/student.pt -o $(ENGINES)/files
	for variant in $(VARIANTS); do $(PY) benchmarks/peer.py --variant $$variant --recipe w4a6 -o $(ENGINES)/files || exit 1; done
	$(PY) benchmarks/engines.py $(ENGINES)/files/*.onnx --work $(ENGINES) --out $(OUT)
	$(PY) benchmarks/runtime.py $(ENGINES)/*-int8.qdbev $(ENGINES)/*-fp16.qdbev --out $(OUT)/runtime.json

bench: $(INSTALLED)
	$(PY) benchmarks/model.py
	$(PY) benchmarks/data.py
	$(PY) benchmarks/train.py
	$(PY) benchmarks/tables.py

clean:
	rm -rf $(VENV) build demo-out
