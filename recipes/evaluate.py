"""Evaluate a model on images it was never trained on, and write a report: verdicts, tables, pictures, sliders.

    python recipes/evaluate.py --model outputs/finetune
    python recipes/evaluate.py --model outputs/base --metrics sliced_wasserstein reconstruction
    python recipes/evaluate.py --model outputs/faces --labeller recipes/pretrained/face-judge

The model is a folder of recipes/finetune.py, or of recipes/pretrain.py: a base alone, whose samples are its answer in
every context. The data is what it was trained on, unless flags say otherwise. ``report.json`` holds every figure with
its interval, ``report.html`` is one file to look at, send and print (of language models there is none). With
``--labeller``, ``labels.md`` says what somebody finds in the pictures who took no part in the training.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from context_module import ContextualDecoder
from context_module.adapters import DecoderAdapter
from context_module.base import Abduction, fingerprint
from context_module.baselines import Baseline, BaselineSubject, load_baseline, traversals
from context_module.cli import BaseArguments, DataArguments, argument, parse_arguments, run_recipe
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData, load_labellers
from context_module.errors import CheckpointError, DataError, OutputExistsError
from context_module.evaluation import (
    Evaluation,
    LabelScores,
    evaluate,
    judged,
    labels_table,
    perturbation_table,
    posterior_notes,
    render_report,
    score_by_labellers,
    summary_table,
)
from context_module.interventions import STRENGTHS
from context_module.io import read_json, write_atomically, write_json
from context_module.metrics import Subject, available_metrics
from context_module.model import contexts_on_one_noise
from context_module.saving import BASE_CONFIGS, CONFIG_NAME
from context_module.training import read_metrics, wants_encoder

PICTURED = 8  # images that counterfactuals are made of
MOVING, FRAMES = 5, 11  # images under a slider, and its strengths


@dataclass(kw_only=True)
class EvaluateArguments(BaseArguments):
    """The flags of this recipe."""

    model: str = argument(help="folder written by recipes/finetune.py, pretrain.py (a base) or train_baseline.py")
    output_dir: str | None = argument(None, help="where the report goes; default: evaluation/ in the model's folder")
    samples: int = argument(1000, help="images compared per context, real and generated alike")
    metrics: list[str] = argument(
        [], help=f"some of {', '.join(available_metrics())}; default: all that apply, with --labeller none"
    )
    labeller: str | None = argument(None, help="who says what pictures show: a Python file, a classifier, or a name")
    projections: int = argument(200, help="random directions of the sliced Wasserstein distance")
    seed: int | None = argument(None, help="of generated images and metrics; default: the training's")
    data: str | None = argument(None, help="as in training, as all further flags: see recipes/finetune.py --help")
    data_options: list[str] | None = argument(None, help="default: the training's")
    samples_per_context: int | None = argument(None, help="default: the training's")
    skip_corrupt: bool | None = argument(None, help="default: the training's")
    cache_dir: str | None = argument(None, help="default: the training's")
    data_seed: int | None = argument(None, help="of data and the validation split; default: the training's")
    val_fraction: float | None = argument(None, help="share kept for validation; default: the training's")


def settings(args: EvaluateArguments) -> dict[str, Any]:
    """How the model was trained, as far as it is recorded; flags that name data win."""
    recorded = Path(args.model) / "arguments.json"
    run = read_json(recorded) if recorded.is_file() else {}
    of_data = {name: name for name in (*(field.name for field in fields(DataArguments)), "val_fraction")}
    of_data["seed"] = "data_seed"
    if args.data not in (None, run.get("data")):  # what is recorded is about other data
        run = {name: value for name, value in run.items() if name not in (*of_data, "contexts")}
    given = {name: getattr(args, flag) for name, flag in of_data.items()}
    return run | {name: value for name, value in given.items() if value is not None}


def load_model(args: EvaluateArguments, run: Mapping[str, Any]) -> ContextualDecoder | DecoderAdapter | Baseline:
    """The wrapped base in the folder, the base in it, or the baseline."""
    folder = Path(args.model)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected one written by recipes/finetune.py or pretrain.py")
    family = args.base or run.get("base")
    if (folder / CONFIG_NAME).exists():
        return ContextualDecoder.from_pretrained(folder, base=args.given_base())
    if not any((folder / name).exists() for name in BASE_CONFIGS):
        raise CheckpointError(
            f"{folder} holds no model: neither {CONFIG_NAME} (of recipes/finetune.py) nor {' or '.join(BASE_CONFIGS)} "
            "(of recipes/pretrain.py); has its training ended?"
        )
    if "method" in run:
        return load_baseline(folder)
    if family is None:
        raise CheckpointError(f"{folder} does not say which family its base is of: give --base")
    base = args.load_base(folder, family)
    assert base is not None
    return base


def load_real(args: EvaluateArguments, run: Mapping[str, Any], base: DecoderAdapter | Baseline) -> ContextData:
    """The data of the training, with images to score on that it did not see."""
    if args.data is None and "data" not in run:
        raise DataError(f"{args.model} does not say which data it was trained on: give --data")
    flags = DataArguments(**{field.name: run[field.name] for field in fields(DataArguments) if field.name in run})
    runs_file = any(word.startswith("labeller=") and word.endswith(".py") for word in flags.data_options)
    if runs_file and args.data_options is None:
        raise DataError(
            f"{args.model} records that a Python file labels its data; no record makes a file run: say it yourself, "
            f"--data_options {shlex.join(flags.data_options)}"
        )
    enough = 2 * args.samples  # half of them to be compared, half for the floor
    return flags.load(**base.data_settings(), held_out_samples=enough, test_samples=enough)


def with_validation(data: ContextData, run: Mapping[str, Any]) -> ContextData:
    """Data without a test part: what its training kept for validation, and never trained on, takes that place."""
    images = data.train.pooled() if run.get("pooled") else data.train
    learned = run.get("contexts") or images.context_names  # the training split these; the others are split here
    train, test = [], []
    for contexts in (learned, [context for context in images.context_names if context not in learned]):
        if contexts:
            numbers = torch.tensor([context in contexts for context in images.context_names])[images.labels].nonzero()
            split = images.only(contexts).split_indices(run.get("val_fraction", 0.05), seed=run.get("seed", 0))
            for part, indices in zip((train, test), split, strict=True):
                part.append(numbers.flatten()[indices])
    seen, unseen = (data.train.subset(torch.cat(part).sort().values) for part in (train, test))
    return replace(data, train=seen, test=unseen)


def counterfactuals(model: ContextualDecoder, data: ContextData, real: Tensor) -> dict[str, Tensor]:
    """Real observational images, then what they become under every intervention."""
    abduction = model.abduct(real.to(model.base.device), OBSERVATIONAL)
    return {"real": real, **contexts_on_one_noise(model, data.context_names, abduction=abduction)}


def by_strength(model: ContextualDecoder, noise: Tensor | Abduction) -> dict[str, dict[float, Tensor]]:
    """By concept, what images of this noise become at even steps of strength."""
    low, high = STRENGTHS
    steps = [round(low + (high - low) * frame / (FRAMES - 1), 2) for frame in range(FRAMES)]
    return {
        concept: {strength: model.generate(noise=noise, do={concept: strength}, seed=0) for strength in steps}
        for concept in model.concepts
    }


def report(
    args: EvaluateArguments,
    run: Mapping[str, Any],
    model: ContextualDecoder | DecoderAdapter | Subject,
    data: ContextData,
    scored: Evaluation,
    facts: dict[str, str],
    labels: LabelScores | None,
) -> str:
    """The report as HTML."""
    pooled = bool(run.get("pooled"))
    name = Path(args.model).resolve().name
    lead = "A base alone: samples of its prior are its answer in every context."
    of_module: dict[str, Any] = {}
    pictured = data.train.kind == "images"
    if isinstance(model, Subject):
        lead = f"A system to compare with, on {model.kind} that it was never trained on."
    if isinstance(model, BaselineSubject):
        assert data.test is not None
        of_module["traversals"] = traversals(model.model, data.test.first(1)[0])
    if isinstance(model, ContextualDecoder):
        lead = "A context module in front of a pretrained base, on images that it was never trained on."
        assert data.test is not None
        of_module["notes"] = posterior_notes(model, data.test, pooled=pooled)
        if not pictured:
            lead = lead.replace("images", "rows")
        elif not pooled and wants_encoder(model.base):  # of samples of its own: no noise is known behind an image
            noise = model.module.sample_noise(MOVING, 1.0, torch.Generator().manual_seed(scored.seed))
            of_module["strengths"] = by_strength(model, noise)
        elif not pooled:
            real = data.test.select(OBSERVATIONAL)[:PICTURED]
            of_module["counterfactuals"] = counterfactuals(model, data, real)
            moving = real[:MOVING].to(model.base.device)
            of_module["strengths"] = by_strength(model, model.abduct(moving, OBSERVATIONAL))
    return render_report(
        f"Evaluation of {name}",
        scored,
        lead=lead,
        facts=facts,
        labels=labels,
        log=read_metrics(Path(args.model) / "metrics.jsonl"),
        **of_module,
    )


def score(
    args: EvaluateArguments,
    run: Mapping[str, Any],
    model: ContextualDecoder | DecoderAdapter | Subject,
    data: ContextData,
) -> Evaluation:
    """All figures of the report; those of --labeller alone where that is given and no metric."""
    unasked = args.labeller is not None and not args.metrics
    return evaluate(
        model,
        data,
        samples=args.samples,
        metrics=[] if unasked else args.metrics or None,
        contexts=[] if unasked else None,
        pooled=bool(run.get("pooled")),
        projections=args.projections,
        seed=run.get("seed", 0) if args.seed is None else args.seed,
        cache_dir=run.get("cache_dir"),
    )


def by_labeller(args: EvaluateArguments, model: object, data: ContextData, seed: int) -> LabelScores | None:
    """What --labeller finds; None without one."""
    if args.labeller is None:
        return None
    if not isinstance(model, ContextualDecoder) or model.base.kind != "images":
        raise DataError("--labeller is for a context module in front of a base of images")
    labellers = load_labellers(args.labeller, model.concepts)
    return score_by_labellers(model, data, labellers, samples=args.samples, seed=seed)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(EvaluateArguments, description=__doc__.splitlines()[0], argv=argv)
    output = Path(args.output_dir) if args.output_dir else Path(args.model) / "evaluation"
    if output.exists() and not output.is_dir():
        raise OutputExistsError(f"the output directory {output} is a file: give another --output_dir")
    run = settings(args)
    model = load_model(args, run)
    base = model.base if isinstance(model, ContextualDecoder) else model
    data = load_real(args, run, base)
    source = f"test {base.kind}, never trained on"
    if data.test is None:
        data = with_validation(data, run)
        source = "the validation split of the training, as the data has no test part"
    if isinstance(model, Baseline):
        model = model.subject(data.train)
    scored = score(args, run, model, data)
    if isinstance(model, ContextualDecoder) and set(model.concepts) < set(data.concepts):
        data = data.of_concepts(model.concepts)  # of --contexts
    n = args.samples
    facts = {
        "model": args.model,
        "concepts": ", ".join(data.concepts),
        "base": f"{base.name}, {base.takes}, fingerprint {fingerprint(base)}",
        "data": " ".join([run["data"], *run.get("data_options", ())]),
        f"real {base.kind} of training contexts": source,
        f"{base.kind} per context": f"{n} real, {n} generated, {n} more real for the floor",
        "seed": str(scored.seed),
        "versions": f"context-module {importlib.metadata.version('context-module')}, torch {torch.__version__}",
        "command": f"python recipes/evaluate.py {shlex.join(sys.argv[1:] if argv is None else argv)}",
    }
    labels = by_labeller(args, model, data, scored.seed)
    pages = {} if labels is None else {"labels.md": f"{labels_table(labels)}\n"}
    if base.kind != "texts":
        pages["report.html"] = report(args, run, model, data, scored, facts, labels)
    output.mkdir(parents=True, exist_ok=True)
    verdicts = judged(scored)
    said = {one.context: {"verdict": one.verdict, "why": one.why} for one in verdicts}
    write_json(output / "report.json", {"evaluated": facts, "verdicts": said, **scored.to_dict()})
    for name, page in pages.items():
        write_atomically(output / name, lambda temporary, page=page: temporary.write_text(page, encoding="utf-8"))
    print(summary_table(scored))
    if "e_distance" in scored.summary.get("composition", {}):
        print(f"\n{perturbation_table(scored)}")
    if "labels.md" in pages:
        print(f"\n{pages['labels.md']}")
    for one in verdicts:
        print(f"{one.context}: {one.verdict}")
    for metric, reason in scored.skipped.items():
        print(f"{metric} was not measured: {reason}")
    print("", *(output / name for name in (*pages, "report.json")), sep="\n")


if __name__ == "__main__":
    run_recipe(main)
