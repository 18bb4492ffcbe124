# Two commands are enough: `make demo` and `make test`. Each installs what it needs into .venv and build/.

VENV ?= .venv
PY := $(VENV)/bin/python
JOBS ?= 2
INSTALLED := $(VENV)/.installed

.PHONY: test lint fmt typecheck pytest  clean help

help:
	@echo "make test       install, then ruff, mypy and pytest"
	@echo "make lint|fmt   check or mend the style"
	@echo "make       the marks that a CPU can run"
	@echo "make clean      remove .venv and build"

$(INSTALLED): pyproject.toml constraints.txt tools/setup.sh
	VENV=$(VENV) tools/setup.sh
	@touch $@

test: lint typecheck pytest

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

fmt: $(INSTALLED)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

typecheck: $(INSTALLED)
	$(VENV)/bin/mypy

# Two processes with one torch thread each are faster on two cores than one with two.
pytest: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(JOBS)

clean:
	rm -rf $(VENV) build demo-out
