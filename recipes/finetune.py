"""Put a context module in front of a pretrained base and train it on per-context data.

    python recipes/finetune.py --base nvae
    python recipes/finetune.py --base nvae --base_checkpoint checkpoint.pt --data photos/ --output_dir out

Without ``--base_checkpoint`` the small NVAE that ships with these recipes is used, on the quad data at its size. The
base stays as it is unless ``--train_mode`` lets it train along, or LoRA on its decoder; then the result holds that
too. The result is a folder for `ContextualDecoder.from_pretrained` and ``recipes/compose.py``; where the data holds
compositions (pairs of concepts, never trained on), a table says how close the generated ones come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import DecoderAdapter, get_adapter
from context_module.cli import (
    BaseArguments,
    TermArguments,
    TrainingArguments,
    argument,
    edit_terms_of,
    next_command,
    parse_arguments,
    recipe_file,
    run_recipe,
    terms_of,
)
from context_module.data import ContextData, ContextDataset, LabelledDataset, SampledDataset
from context_module.drawing import labelled_grid, labelled_samples
from context_module.errors import ConceptError
from context_module.evaluation import score_finished
from context_module.io import load_strictly, load_tensors, save_tensors, write_text
from context_module.model import TrainMode, contexts_on_one_noise, set_train_mode
from context_module.nn import Composition, Form, Inversion
from context_module.saving import FILES, OWN_FILES, CardDetails
from context_module.training import (
    EncodedDataset,
    RunDirectory,
    Trainer,
    TrainingResult,
    encode_dataset,
    fit_effects,
    fit_encoder,
    fit_gains,
    fit_values,
    make_accelerator,
    wants_encoder,
)
from context_module.training.objectives import EditObjective, LatentObjective, Objective, PixelObjective

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from PIL.Image import Image

DEFAULT = "nvae"
SHIPPED = {DEFAULT: recipe_file(__file__, "pretrained/nvae-quad32")}


@dataclass(kw_only=True)
class FinetuneArguments(BaseArguments, TermArguments, TrainingArguments):
    """The flags of this recipe."""

    least_steps = 0

    output_dir: str = argument("outputs/finetune", help="where the module, checkpoints, metrics and pictures go")
    max_train_steps: int = argument(1500, help="optimiser steps; 0: edits as they are in closed form, in seconds")
    train_batch_size: int = argument(896, help="images per optimiser step, over all processes and accumulation steps")
    learning_rate: float = argument(2e-3, help="peak learning rate; it falls to 1%% along a cosine")
    max_grad_norm: float = argument(5.0, help="gradients are clipped to this norm")
    validation_steps: int = argument(1500, help="steps between validations, each with a sample grid")
    base: str | None = argument(
        None,
        help="family of the base: nvae (the default), lightweight, diffusers, denoiser, transformers, vector_vae, or "
        "an installed adapter's",
    )
    base_checkpoint: str | None = argument(None, help="file, folder or Hub id; default: the NVAE that ships")
    encoder_steps: int = argument(2000, help="a base without an encoder: steps of training one, before all else")
    train_mode: TrainMode = argument(
        "frozen",
        help="the base: as it is, with LoRA on its decoder, unfrozen after --frozen_share of the steps, or from "
        "scratch with the module",
    )
    lora_rank: int | None = argument(None, help="lora: rank of the updates; default: 8, or that of --module")
    frozen_share: float = argument(0.2, help="finetune: share of the steps in which the base stands still")
    module: str | None = argument(None, help="start from a folder of this recipe: its base, module, widths, graph")
    contexts: list[str] = argument(
        [], help="training contexts to learn from, their concepts the module's; default: all. obs alone: no concepts"
    )
    pooled: bool = argument(False, help="do not tell the module of contexts: every image counts as observational")
    noise_width: int | None = argument(None, help="width of each noise block; default: by the latents' size")
    concept_width: int | None = argument(None, help="width of each concept block; default: by the latents' size")
    depth: int | None = argument(None, help="layers from noise to exogenous values; default: 2")
    free_blocks: int | None = argument(None, help="noise blocks that no context intervenes on; default: 2")
    inversion_width: int | None = argument(
        None, help="hidden width of a residual MLP after the linear inversion; 0: none; default: by the latents' size"
    )
    inversion: Inversion | None = argument(
        None, help="dense, or factorised for large spatial latents; default: by the latents' size"
    )
    graph: list[str] = argument(
        [],
        help="edges among concepts, cause:effect, such as quad2:quad1 quad3:quad2; none: there are none; default: "
        "edits find them, and a structural form may learn any",
    )
    form: Form | None = argument(
        None,
        help="interventions edit decoder inputs; or the module makes these from noise alone, with an intervention "
        "layer along the graph (structural) or of total effects (reduced, the paper); default: edits with the latent "
        "objective, else structural",
    )
    composition: Composition = argument("do", help="reduced form: how joint interventions compose")
    reference: bool = argument(False, help="the paper's module, with its widths; with --form reduced")
    objective: Literal["latent", "pixel"] | None = argument(
        None,
        help="model the base's embeddings, encoded once; or the pixels (or tokens), through the base's decoder; "
        "default: latent for a base that has embeddings and does not train, else pixel",
    )
    latent_noise: bool | None = argument(
        None, help="decoder inputs are Gaussian around the module's; default: with the latent objective"
    )
    half_encodings: bool = argument(False, help="latent objective: keep encodings in float16, half the room")
    beta: float | None = argument(
        None, help="weight of the noise's KL; default: by the signal in the latents, or 1 for pixel"
    )
    edge_threshold: float = argument(
        0.05,
        help="latent: halfway, edges weaker than this share of the strongest go, and both penalties; 0: never",
    )
    value_draws: int = argument(
        128, help="blocks tried per concept with values in the data, where images' mean block shows them badly"
    )
    score_samples: int = argument(
        1000, help="images per composition in the table, at most half of its own; 0: no table"
    )


def base_of(args: FinetuneArguments, device: torch.device) -> DecoderAdapter:
    """The pretrained base, where it is to run: data may be drawn of it."""
    family = args.base or DEFAULT
    get_adapter(family)  # an unknown name ends it
    base = args.load_base(SHIPPED.get(family), family)
    if base is None:
        raise ValueError(f"no base ships for --base {family}: give --base_checkpoint")
    return base.to(device)


def data_for(args: FinetuneArguments, base: DecoderAdapter) -> ContextData:
    """The data that fits the base."""
    return chosen(args, args.load(**base.data_settings()))


def chosen(args: FinetuneArguments, data: ContextData) -> ContextData:
    """The data of the contexts to learn from."""
    if not args.contexts:
        return data
    known = data.concepts
    data = data.of_concepts({name for context in args.contexts for name in known.parse(context)})
    return dataclasses.replace(data, train=data.train.only(args.contexts))


def edges_of(words: list[str]) -> tuple[tuple[str, str], ...] | None:
    """The (cause, effect) pairs of --graph, none for ``none``; None without any word: it is not known."""
    if words == ["none"]:
        return ()
    edges = []
    for word in words:
        cause, separator, effect = word.partition(":")
        if not separator:
            raise ConceptError(f"--graph {word}: expected cause:effect, such as quad2:quad1")
        edges.append((cause, effect))
    return tuple(edges) or None


def trained_before(
    args: FinetuneArguments, folder: str, device: torch.device
) -> tuple[ContextualDecoder, ContextData]:
    """A module to go on from, and data of its concepts."""
    model = ContextualDecoder.from_pretrained(folder, base=args.given_base())
    data = data_for(args, model.base.to(device))
    if model.concepts != data.concepts:
        raise ConceptError(
            f"{folder} has the concepts {', '.join(model.concepts)}, the data {', '.join(data.concepts)}: "
            "train it on data of its own concepts, in the same order"
        )
    return model, data


def models_embeddings(args: FinetuneArguments, possible: bool) -> bool:
    """Whether the objective is the latent one: as asked for, else where it is possible and the base stands still."""
    return args.objective == "latent" if args.objective else possible and args.train_mode == "frozen"


def form_of(args: FinetuneArguments, base: DecoderAdapter, data: ContextData) -> Form:
    """The module's form: as asked for, else edits where there are embeddings to edit, and contexts to edit them to."""
    latent = models_embeddings(args, base.embeds) and args.latent_noise is not False
    possible = latent and data.concepts and not args.pooled and not args.reference
    form: Form = args.form or ("edits" if possible else "structural")
    if form == "edits" and not possible:
        raise ValueError(
            "--form edits changes embeddings from one context to another: it needs --objective latent, concepts, and "
            "neither --pooled nor --reference"
        )
    if not args.max_train_steps and form != "edits":
        raise ValueError(f"--max_train_steps 0 is for --form edits, which are fitted in closed form; got {form}")
    return form


def build(args: FinetuneArguments, device: torch.device) -> tuple[ContextualDecoder, ContextData]:
    """The model to train, its base on this device, and its data."""
    if args.train_mode != "frozen" and args.objective == "latent":
        raise ValueError(f"--train_mode {args.train_mode} trains the base through its decoder: use --objective pixel")
    if args.train_mode == "end_to_end":
        if args.module or args.base_checkpoint:
            raise ValueError("--train_mode end_to_end starts from scratch: leave out --module and --base_checkpoint")
        args.load_base()  # there is none: refuses options of one
        data = chosen(args, args.load())
        base = get_adapter(args.base or DEFAULT).fresh(data.train.image_shape)
    elif args.module:
        return trained_before(args, args.module, device)
    else:
        base = base_of(args, device)
        data = data_for(args, base)
    model = wrap_decoder(
        base,
        data.concepts,
        noise_width=args.noise_width,
        concept_width=args.concept_width,
        depth=args.depth,
        free_blocks=args.free_blocks,
        inversion_width=args.inversion_width,
        inversion=args.inversion,
        graph=edges_of(args.graph),
        form=form_of(args, base, data),
        composition=args.composition,
        reference=args.reference,
        latent_noise=models_embeddings(args, base.embeds) if args.latent_noise is None else args.latent_noise,
    )
    return model, data


def prepare_encoder(
    args: FinetuneArguments, run: RunDirectory, accelerator: Accelerator, base: DecoderAdapter, images: ContextDataset
) -> None:
    """Train the encoder of a base without one; a resumed run goes on with the one that it had."""
    from accelerate.utils import broadcast

    encoder, file = base.get_submodule("encoder"), run.path / "encoder.safetensors"
    if run.checkpoint is not None:
        load_strictly(encoder, load_tensors(file), file)
        return
    if args.encoder_steps < 1:
        raise ValueError(f"--encoder_steps must be at least 1 for a {base.name} base, got {args.encoder_steps}")
    shown = accelerator.is_main_process
    if shown:
        run.make_room()  # a new encoder is none of an earlier run's checkpoints
    loss = fit_encoder(base, images, steps=args.encoder_steps, seed=args.seed, progress=shown)
    for tensor in encoder.state_dict().values():  # devices round differently: all take the first process's
        tensor.copy_(broadcast(tensor.clone()))
    if accelerator.is_main_process:
        save_tensors(file, encoder.state_dict())
        print(f"an encoder for the base: {loss:.1f} nats per image")


def objective_for(
    args: FinetuneArguments,
    accelerator: Accelerator,
    model: ContextualDecoder,
    images: tuple[ContextDataset, ContextDataset],
    frozen_share: float,
) -> tuple[Objective, LabelledDataset, LabelledDataset]:
    """The objective, and what it is trained and validated on: images, or their encodings."""
    beta = {} if args.beta is None else {"beta": args.beta}
    if not models_embeddings(args, model.config.latent_noise):
        if model.config.form == "edits" and args.train_mode == "frozen":
            raise ValueError(
                "edits train on embeddings: use --objective latent, or a --train_mode in which the base trains"
            )
        if args.half_encodings:
            raise ValueError("--half_encodings is of the latent objective: the pixel objective keeps no encodings")
        return PixelObjective(model, frozen_share=frozen_share, **beta), *images
    # with a cache any one process encodes, with its bar, and the others wait
    shown = accelerator.is_main_process or args.cache_dir is not None
    train_data, val_data = (
        encode_dataset(model.base, part, cache_dir=args.cache_dir, half=args.half_encodings, progress=shown)
        for part in images
    )
    if model.config.form == "edits":
        return EditObjective(model, train_data, edit_terms_of(args), start=not args.module), train_data, val_data
    objective = LatentObjective(
        model, train_data, terms_of(args), start=not args.module, edge_threshold=args.edge_threshold, **beta
    )
    return objective, train_data, val_data


def finish(
    args: FinetuneArguments,
    run: RunDirectory,
    model: ContextualDecoder,
    data: ContextData,
    images: tuple[ContextDataset, ContextDataset],
    encodings: EncodedDataset | None,
    result: TrainingResult,
    repository: str | None,
) -> None:
    """Fit values, save, score, upload, and say what came out."""
    errors = fit_values(model, images[0], draws=args.value_draws, seed=args.seed)
    rows = contexts_on_one_noise(model, data.context_names)
    model.details = CardDetails.of(args.data_name, grid=labelled_grid(rows) if model.base.kind == "images" else None)
    model.eval().save_pretrained(run.path, repo_id=repository)
    if errors and args.value_draws:
        print("values that can be set, and how far off pictures are on average:", end=" ")
        print(", ".join(f"{name} {error:.3g}" for name, error in errors.items()))
    print(f"{run.path}: best validation loss {result.loss:.1f} at step {result.best_step} of {result.steps}")
    scores = score_finished(
        model,
        data,
        images[1],
        samples=args.score_samples,
        pooled=args.pooled,
        encodings=encodings,
        seed=args.seed,
    )
    print("\n\n".join(["", *scores.tables.values(), *scores.notes]).rstrip())
    if scores.tables:
        for file, table in scores.tables.items():
            write_text(run.path / file, table + "\n")
        model.details.metrics = "\n\n".join(scores.tables.values())
        model.save_pretrained(run.path, repo_id=repository)
    with run.finishing(dataclasses.asdict(result)):
        args.publish(run.path, repository, FILES, "context module")
    if model.concepts:
        print("\n" + next_command(__file__, "compose", "--model", args.output_dir, "--do", *model.concepts[:2]))


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(FinetuneArguments, description=__doc__.splitlines()[0], argv=argv)
    run = args.run_directory(OWN_FILES)
    # what a base has beyond its encoder and decoder, such as posterior heads of its own, takes no part
    unused = args.train_mode != "frozen" or bool(args.contexts)  # nor has an edge between no concepts
    accelerator = make_accelerator(args, find_unused_parameters=unused)
    repository = args.hub_repository() if accelerator.is_main_process else None
    model, data = build(args, accelerator.device)
    frozen_share = set_train_mode(model, args.train_mode, frozen_share=args.frozen_share, rank=args.lora_rank)
    images = (data.train.pooled() if args.pooled else data.train).split(args.val_fraction, seed=args.seed)
    if accelerator.is_main_process:
        print(data.describe())
        model.print_trainable_parameters()
    model.base.to(accelerator.device)
    known = isinstance(images[0], SampledDataset) and models_embeddings(args, model.config.latent_noise)
    if wants_encoder(model.base) and not known:
        prepare_encoder(args, run, accelerator, model.base, images[0])
    objective, train_data, val_data = objective_for(args, accelerator, model, images, frozen_share)
    preview = partial(preview_of, model, data.context_names)
    result = Trainer(accelerator, args, run, objective, train_data, val_data, preview=preview).train()
    if isinstance(train_data, EncodedDataset) and model.config.form == "edits":
        fit_effects(model, train_data)
        if accelerator.is_main_process and (leads := model.module.leads):
            print(f"in compositions: {', '.join(f'{first} leads {then}' for first, then in leads)}")
        lengthen(model, data, train_data, shown=accelerator.is_main_process)
    if accelerator.is_main_process:
        # of a pooled training they do not say what is of which context
        encodings = train_data if isinstance(train_data, EncodedDataset) and not args.pooled else None
        finish(args, run, model, data, images, encodings, result, repository)


def lengthen(model: ContextualDecoder, data: ContextData, encodings: EncodedDataset, *, shown: bool) -> None:
    """Make edits long enough for the labellers that come with the data, if any."""
    if data.labellers:
        gains = fit_gains(model, data.labellers, encodings)
        if shown:
            factors = ", ".join(f"{name} {factor:.3g}" for name, factor in gains.items())
            print(f"edits made longer, until 95% of their pictures are labelled so, by factors: {factors}")


def preview_of(model: ContextualDecoder, contexts: Iterable[str]) -> Image | str:
    """A picture of every context on the same noise, or a table of texts."""
    return labelled_samples(contexts_on_one_noise(model, contexts), getattr(model.base, "columns", ()))


if __name__ == "__main__":
    run_recipe(main)
