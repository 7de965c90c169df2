# Every target sets up what it needs: a virtual environment in .venv, from a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SEEDS ?= 0 1 2

.PHONY: install demo demo-seeds test test-device check bench bench-tabular bench-control textbook format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The whole of RLHF on a generated world, about ten minutes on two cores; continues where it was stopped.
demo: .venv/installed
	$(BIN)/operant align --out runs/demo $(if $(wildcard runs/demo/config.toml),--resume)

# The demo in three worlds, two at a time, about half an hour; continues where it was stopped.
demo-seeds: .venv/installed
	for seed in $(SEEDS); do echo $$seed; done | xargs -P 2 -I SEED sh -c '\
	  resume=; [ -f runs/seeds/SEED/config.toml ] && resume=--resume; mkdir -p runs/seeds; \
	  OMP_NUM_THREADS=1 $(BIN)/operant align --out runs/seeds/SEED $${resume:---seed SEED --workers 1 --threads 1} \
	  > runs/seeds/SEED.log 2>&1 || { tail -1 runs/seeds/SEED.log; exit 1; }'
	$(BIN)/python benchmarks/almanac_seeds.py $(addprefix runs/seeds/,$(SEEDS))

test: .venv/installed
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# What computes on an accelerator, on a stand-in for one, which g++ compiles.
test-device: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m pytest -p stand_in -m gpu

check: .venv/installed
	$(BIN)/ruff format --check src tests benchmarks recipes
	$(BIN)/ruff check src tests benchmarks recipes
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_layers.py

format: .venv/installed
	$(BIN)/ruff format src tests benchmarks recipes
	$(BIN)/ruff check --fix src tests benchmarks recipes

# Side by side with TRL; makes the peers' environments itself, and needs the data sets that benchmarks/README.md names.
bench: .venv/installed
	$(BIN)/python benchmarks/language_models.py

# Solvers of known models against QuantEcon, mdpsolver and pymdptoolbox, and their sweeps against the memory.
bench-tabular: .venv/installed
	$(BIN)/python benchmarks/tabular.py

# Control beside Stable-Baselines3, half an hour, and what every preset learns, three seeds each, a day; goes on where it stopped.
bench-control: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[box2d]'
	$(BIN)/python benchmarks/control.py
	$(BIN)/python benchmarks/a3c.py
	$(BIN)/python benchmarks/learning.py --suite classic mujoco --jobs 2

# Figures of Sutton and Barto with our algorithms: docs/textbook/figures.md.
textbook: .venv/installed
	$(BIN)/python -m benchmarks.textbook

clean:
	rm -rf .venv .pytest_cache .ruff_cache
