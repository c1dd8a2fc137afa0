# Every target installs what it needs first: Python 3.11+ and make are enough. `make help` lists them.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONNOUSERSITE := 1
# see ss3d_lib/__init__.py; here for notebooks opened in JupyterLab, which may import torch first
export GOMP_SPINCOUNT ?= 1000

.DEFAULT_GOAL := help
.PHONY: help install data repro release test smoke bench lab lint twins deps lock

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1 \t/p' $(MAKEFILE_LIST) | expand -t 10

install:  ## make .venv from requirements.lock (nothing to do when it is up to date)
	@$(PYTHON) install.py

data: install  ## fetch the embedded corpus and the released checkpoint from the DVC store in this repository
	@python -m ss3d_lib.store

repro: data  ## run every stage that is out of date: results/, checkpoints, tables, figures
	dvc repro

# bpy, Blender as a module, has wheels for Python 3.11 and 3.13, not for 3.12
release: data  ## the released checkpoint anew: renders 60 more videos, then trains for an hour (Python 3.11 or 3.13)
	$(PYTHON) -m venv .venv-render && .venv-render/bin/python -m pip install --quiet --upgrade pip
	.venv-render/bin/python -m pip install --quiet --group render
	.venv-render/bin/python -m corpus --out .scratch/more --seed-offset 96 --count 60
	trap 'dvc freeze release' EXIT; trap 'exit 130' INT TERM; dvc unfreeze release && dvc repro -s release

test: data  ## all tests, the smoke run included, two files at a time
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

smoke: data  ## the whole pipeline with tiny values, in a temporary copy
	python -m pytest tests/test_smoke.py -s

bench: data  ## what scoring and (after make repro) a training step cost, beside their rivals: on a quiet machine
	python -m benchmarks.score_oracle && python -m benchmarks.score && python -m benchmarks.training

lab: data  ## open the notebooks in JupyterLab; kernels start in the repository root
	jupyter lab --config=.jupyter/jupyter_server_config.py --LabApp.default_url=/lab/tree/notebooks

lint: install  ## style, notebook twins, declared dependencies
	ruff check . && python -m ss3d_lib.notebooks --check && python -m ss3d_lib.graph --check

twins: install  ## write notebooks/*.ipynb from their .py
	python -m ss3d_lib.notebooks

deps: install  ## write the modules that each notebook imports into dvc.yaml
	python -m ss3d_lib.graph

lock: install  ## resolve pyproject.toml anew into requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --extra dev --extra baselines --extra youtube --extra cluster --extra datasets --extra viewer \
	  pyproject.toml --output-file requirements.lock
