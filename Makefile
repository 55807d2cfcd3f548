# Every target installs first if it has to. On a machine without CUDA the slim torch comes from
# PyTorch's own CPU index:  make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
.DEFAULT_GOAL := help
SHELL := /bin/bash

TORCH_INDEX ?=
TORCH := torch==2.13.0

BIN := .venv/bin
# tests keep to one thread each, so two of them run side by side
PYTEST := .venv/bin/python -m pytest -n 2 --dist worksteal
STUDY := .venv/bin/python -m benchmarks.sequence_study --out benchmarks/results/sequence_study
STAMP := .venv/.installed
PEERS := .venv/.peers-installed
# the first of these that is Python 3.11 or newer; PYTHON=... names the only one
PYTHON ?= python3 python3.11 python3.12 python3.13

.PHONY: help setup demo test check bench claims docs clean

help:
	@echo "make setup   create .venv and install everything, pinned"
	@echo "make demo    the main job on real data; writes sidrank-demo/report.html"
	@echo "make test    every test"
	@echo "make check   format, lint, import law, docstrings, types, docs, tests"
	@echo "make bench   speed against named peers"
	@echo "make claims  run the experiments behind docs/claims.md (slow)"
	@echo "make docs    build the documentation into build/docs"
	@echo "make clean   remove .venv and everything built"

setup: $(STAMP)

$(STAMP): requirements-cpu.txt pyproject.toml
	@rm -f $@; \
	new_enough() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	for python in $(PYTHON); do new_enough "$$python" && break; python=; done; \
	if [ -z "$$python" ]; then \
	  echo "sidrank needs Python 3.11 or newer; tried: $(PYTHON). Say: make setup PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	if ! new_enough $(BIN)/python || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  "$$python" -m venv --clear .venv; \
	fi
	@echo 'Installing torch, then about a hundred pinned packages: a minute or two.'
	$(BIN)/python -m pip install $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	$(BIN)/sidrank demo

test: $(STAMP)
	$(PYTEST)

# cheapest first
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pydoclint sidrank
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/sphinx-build -W --keep-going -n -q -E docs build/docs
	$(PYTEST)

$(PEERS): requirements-bench.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-bench.txt
	@touch $@

bench: $(PEERS)
	$(BIN)/python -m benchmarks.metrics
	$(BIN)/python -m benchmarks.metrics_memory
	$(BIN)/python -m benchmarks.tokenizers
	$(BIN)/python -m benchmarks.sid_lookup
	$(BIN)/python -m benchmarks.hybrid_step
	$(BIN)/python -m benchmarks.sid_expansion
	$(BIN)/python -m benchmarks.windowed_attention
	$(BIN)/python -m benchmarks.evolutionary_attention
	$(BIN)/python -m benchmarks.compression_tokens
	$(BIN)/python -m benchmarks.token_former
	$(BIN)/python -m benchmarks.din
	$(BIN)/python -m benchmarks.neural_ndcg
	$(BIN)/python -m benchmarks.miss_ratio
	$(BIN)/python -m benchmarks.look_ahead
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.tiered
	$(BIN)/python -m benchmarks.candidate_scorer
	$(BIN)/python -m benchmarks.serving_export
	$(BIN)/python -m benchmarks.version_swap
	$(BIN)/python -m benchmarks.row_stream
	$(BIN)/python -m benchmarks.page

claims: $(PEERS)
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.fsq_collisions
	$(BIN)/python -m benchmarks.heads_and_fusion
	$(BIN)/python -m benchmarks.tokenizer_ablation
	$(BIN)/python -m benchmarks.tokenizers_in_a_ranker
	$(BIN)/python -m benchmarks.shootout
	$(BIN)/python -m benchmarks.shootout_movielens
	$(BIN)/python -m benchmarks.shootout_alignment
	$(BIN)/python -m benchmarks.shootout_gate
	$(BIN)/python -m benchmarks.deadlines
	$(BIN)/python -m benchmarks.movielens_peers
	OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.tiered_exact
	$(BIN)/python -m benchmarks.kill_drill
	$(BIN)/python -m benchmarks.train_drill
	$(BIN)/python -m benchmarks.reshard_matrix
	$(BIN)/python -m benchmarks.serving_soak --minutes 20
	$(BIN)/python -m benchmarks.situations --choose
	$(BIN)/python -m benchmarks.situations
	$(STUDY)_compression.json --users 1000 --settings long_brief movielens_per_user \
	  --arms compression_recent compression_full compression_tokens compression_strangers
	$(STUDY)_sparse.json --users 1000 --settings session movielens_per_user \
	  --arms sparse_time sparse_equal sparse_shuffled sparse_dense
	$(STUDY)_instance.json --users 1000 --settings instance movielens \
	  --arms instance_host instance_item_ids instance_temporal instance_user_order instance_no_sides \
	  instance_strangers instance_fields instance_stranger_tokens ratings_host ratings_item_ids \
	  ratings_temporal ratings_user_order ratings_no_sides ratings_strangers
	$(STUDY)_token_former.json --users 1500 --settings choice static movielens_per_user \
	  --arms unified_vanilla unified_nlir unified_bfts unified_both unified_vanilla_null unified_both_null \
	  unified_crossed
	$(STUDY)_hyformer.json --users 1500 --settings types movielens_per_user \
	  --arms hyformer late_fusion hyformer_kept late_mixer late_mixer_mean hyformer_kept_null
	$(BIN)/python -m benchmarks.sequence_reads benchmarks/results/sequence_study_token_former.json
	$(BIN)/python -m benchmarks.sequence_reads benchmarks/results/sequence_study_hyformer.json
	$(BIN)/python -m benchmarks.hyformer_focus benchmarks/results/sequence_study_hyformer.json
	$(BIN)/python -m benchmarks.sequence_collapse
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m benchmarks.claims
	$(BIN)/python -m benchmarks.picture

docs: $(STAMP)
	$(BIN)/sphinx-build -W --keep-going -n -q docs build/docs

clean:
	rm -rf .venv build dist sidrank-demo .hypothesis .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
