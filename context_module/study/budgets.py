"""What recipes that compare many trainings spend on each: flags of data, training and evaluation, by budget."""

from __future__ import annotations

from typing import Any

from context_module.training import multiplies_bf16

__all__ = ["BUDGETS", "PAPERS_MODULE", "PIXEL", "STRUCTURAL", "Budget"]

Budget = dict[str, dict[str, Any]]

# half precision where the processor has instructions for it; elsewhere it takes six times as long
PRECISION: dict[str, Any] = {"mixed_precision": "bf16" if multiplies_bf16() else "no"}
# of quad dependent, whose graph is dense, a module that learns it makes more than edits do
STRUCTURAL = {"form": "structural", "learning_rate": 3e-3}
# What the budgets say: of data, of every training, of each kind of training, and of the evaluation. A module that
# trained with its base is matched to that base's embeddings in the end, base frozen, where the budget has a "matched".
# "lecture" is all that trainings on the whole grid of dSprites take, "codes" their evaluation; on the pendulum these
# are "pendulum", with what the kind of training says, and "heads". "screen" is the size of
# simulated screens, "identifiable" what methods of vectors take, "vectors" and "edits" a base of vectors and a module.
SMOKE: Budget = {
    "data": {"samples_per_context": 60},
    "training": {"train_batch_size": 28, "validation_steps": 4, "checkpointing_steps": 1},
    "base": {"max_train_steps": 4},
    "pooled": {"max_train_steps": 4},
    "frozen": {"max_train_steps": 8, **STRUCTURAL},
    "finetune": {"max_train_steps": 4, "objective": "pixel"},
    "joint": {"max_train_steps": 4, "objective": "pixel", "latent_noise": True},
    "matched": {"max_train_steps": 8},
    "default": {"max_train_steps": 4},
    "nvae": {"channels": 4, "latent_channels": 4, "resolution": 32},
    "system": {"max_train_steps": 4},
    "evaluation": {"samples": 20, "projections": 20},
    "lecture": {"samples_per_context": 60, "max_train_steps": 4, "checkpointing_steps": 1, "train_batch_size": 8},
    "codes": {"samples": 300},
    "pendulum": {"samples_per_context": 150, "max_train_steps": 4, "checkpointing_steps": 1, "train_batch_size": 20},
    "supervised": {},
    "dear": {},
    "screen": {"perturbations": 12, "learned": 10, "combined": 6, "pairs": 12, "samples": 15},
    "identifiable": {"samples_per_context": 20, "max_train_steps": 4, "train_batch_size": 26},
    "vectors": {"samples_per_context": 20, "max_train_steps": 4, "train_batch_size": 20},
    "edits": {"samples_per_context": 20, "max_train_steps": 4, "train_batch_size": 20},
    "pretraining": {},
    "classifier": {},
    "module": {},
    "heads": {"samples": 300},
}
LATENT = {"max_train_steps": 5500, "train_batch_size": 448, **STRUCTURAL}
PIXEL = {"objective": "pixel", "max_grad_norm": 1000, **PRECISION}
LABELLED = {"max_train_steps": 1000, "learning_rate": 1e-3, **PRECISION}
EDITS = {"max_train_steps": 1500, "train_batch_size": 448, "learning_rate": 2e-3}
CPU: Budget = {
    "data": {"samples_per_context": 6000},
    "training": {"train_batch_size": 128, "lr_warmup_steps": 100, "validation_steps": 500},
    "base": {"max_train_steps": 1500, "learning_rate": 2e-3, **PRECISION},
    "pooled": {"max_train_steps": 3000, "learning_rate": 2e-3, **PRECISION},
    "frozen": LATENT,
    "finetune": {"max_train_steps": 800, "learning_rate": 5e-4, **PIXEL},
    "joint": {"max_train_steps": 2000, "learning_rate": 2e-3, "latent_noise": True, **PIXEL},
    "matched": LATENT,
    "default": EDITS,
    # a step of an NVAE takes as long as ten of a small VAE
    "nvae": {"channels": 8, "resolution": 32},
    "nvae base": {"max_train_steps": 400, "learning_rate": 1e-2, "max_grad_norm": 200.0},
    "nvae pooled": {"max_train_steps": 1200, "learning_rate": 1e-2, "max_grad_norm": 200.0},
    "nvae finetune": {"max_train_steps": 300},
    "nvae joint": {"max_train_steps": 800},
    "system": {"max_train_steps": 3000, "learning_rate": 1e-3, **PRECISION},
    "evaluation": {"samples": 2000},
    "lecture": {
        "samples_per_context": 40_000,
        "max_train_steps": 3000,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 100,
        **PRECISION,
    },
    "codes": {"samples": 5000},
    "pendulum": {"samples_per_context": 6000, "train_batch_size": 32, "lr_warmup_steps": 100},
    "supervised": LABELLED,
    # in a thousand steps no generator learns against a critic
    "dear": {"match": "likelihood", "label_weight": 1000.0, "graph_lr": 1.0},
    "screen": {"perturbations": 100, "learned": 80, "combined": 30, "pairs": 40, "samples": 100},
    "identifiable": {
        "samples_per_context": 250,
        "max_train_steps": 4000,
        "train_batch_size": 128,
        "learning_rate": 3e-3,
        "validation_steps": 2000,
    },
    "vectors": {
        "samples_per_context": 250,
        "max_train_steps": 3000,
        "train_batch_size": 256,
        "learning_rate": 3e-3,
        "validation_steps": 1000,
        "beta": 0.3,  # with 1 a base leaves three of 15 latents out
    },
    "edits": {"samples_per_context": 250, "max_train_steps": 300, "train_batch_size": 620, "validation_steps": 100},
    "pretraining": LABELLED,
    "classifier": LABELLED,
    "module": {"max_train_steps": 1000},
    "heads": {"samples": 2000},
}
EPOCH = 7 * 35_000 // 512  # steps, of 70% of 50,000 images of each context
PAPERS_MODULE = {
    "objective": "pixel",
    "reference": True,
    "form": "reduced",
    "noise_width": 32,
    "concept_width": 8,
    "free_blocks": 0,
    "inversion_width": 0,
}
PAPER: Budget = {
    "data": {"samples_per_context": 50_000, "val_fraction": 0.3},
    "training": {
        "train_batch_size": 512,
        "gradient_accumulation_steps": 8,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 200,
        "early_stopping_patience": 20,
        "validation_steps": EPOCH,
        "checkpointing_steps": EPOCH,
        "max_train_steps": 100 * EPOCH,
    },
    "base": {"validation_steps": EPOCH // 7, "max_train_steps": 100 * EPOCH // 7},
    "pooled": {},
    "frozen": PAPERS_MODULE,
    "finetune": PAPERS_MODULE,
    "joint": PAPERS_MODULE,
    "default": {
        **EDITS,
        "gradient_accumulation_steps": 1,
        "early_stopping_patience": 0,
        "validation_steps": 500,
        "checkpointing_steps": 500,
    },
    # Vahdat & Kautz 2020, and the paper's appendix
    "nvae": {"channels": 32, "groups_per_scale": 10, "latent_channels": 20, "cells": 2, "resolution": 32},
    "nvae ident": {"channels": 64, "num_scales": 3, "resolution": 64},
    "nvae base": {"learning_rate": 1e-2},
    "nvae pooled": {"learning_rate": 1e-2},
    "system": {},
    "evaluation": {"samples": 1280, "projections": 50},
    "lecture": {
        "samples_per_context": 700_000,
        "max_train_steps": 300_000,
        "learning_rate": 1e-4,
        "validation_steps": 10_000,
        "checkpointing_steps": 10_000,
    },
    "codes": {"samples": 7500},
    "pendulum": {"train_batch_size": 128, "samples_per_context": 10_000},
    "supervised": {"max_train_steps": 43_000, "learning_rate": 1e-4, "architecture": "resnet_sagan64"},
    "dear": {"learning_rate": 5e-5},
    "screen": {"perturbations": 100, "learned": 80, "combined": 30, "pairs": 40, "samples": 100},
    "identifiable": {
        "samples_per_context": 250,
        "max_train_steps": 60_000,
        "train_batch_size": 128,
        "learning_rate": 3e-3,
        "validation_steps": 10_000,
    },
    "vectors": {
        "samples_per_context": 250,
        "max_train_steps": 60_000,
        "train_batch_size": 256,
        "learning_rate": 3e-3,
        "validation_steps": 10_000,
        "beta": 0.3,
    },
    "edits": {"samples_per_context": 250, "max_train_steps": 1500, "train_batch_size": 620, "validation_steps": 100},
    "pretraining": {"max_train_steps": 43_000, "learning_rate": 1e-4},
    "classifier": {"max_train_steps": 20_000, "learning_rate": 1e-4, "network": "resnet50"},
    "module": {"max_train_steps": 20_000},
    "heads": {"samples": 5000},
}
BUDGETS: dict[str, Budget] = {"smoke": SMOKE, "cpu": CPU, "paper": PAPER}
