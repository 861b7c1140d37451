# make demo: train, evaluate and compare two agents on Breakout; film a shipped one.   make test: the whole test suite.
PYTHON ?= python3
BIN := .venv/bin
# Both agents begin to learn and stop to explore earlier than in a full run; more random actions in evaluation keep
# weak agents from waiting for a ball that they never serve.
DEMO := --start-rows 2500 --epsilon-frames 100000 --eval-frames 80000 --eval-episodes 10 --eval-epsilon 0.01 \
	--checkpoint-frames 80000

.PHONY: install test agreement lint demo page bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is missing, or older than Python 3.11; use: make PYTHON=python3.12 install"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Files go to the cores in the order of tests/conftest.py: a long one that begins last would leave the others idle.
test: install
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Our equations against rlax's, an independent implementation (it brings JAX); our environments with others' agents,
# and our agents in others' environments.
agreement: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[agreement,interop]'
	$(BIN)/python -m pytest tests/agreement.py tests/envs/test_gym.py tests/envs/test_images.py tests/test_recall.py

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

demo: install
	$(BIN)/python compare.py --agents dqn drqn --games breakout --frames 200000 --episodes 30 --epsilon 0.01 --out studies/demo -- $(DEMO)
	$(BIN)/python evaluate.py zoo/breakout-drqn --overlay --watch zoo/breakout-drqn/best.json --out studies/demo/shipped

# The local page of all runs in runs/, while they train and afterwards.
page: install
	TRACKIO_DIR=runs/trackio $(BIN)/trackio show --project recall --host 127.0.0.1

# Speed and memory against the peers, which live in an environment of their own.
bench: install .bench-venv/installed
	$(BIN)/python -m benchmarks

.bench-venv/installed: benchmarks/requirements.txt
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
