"""Pretrain a base on contexts pooled, their labels unused: what a context module is then put in front of.

    accelerate launch recipes/pretrain.py --base nvae --data quad --resolution 32 --output_dir outputs/base

The result is a folder for ``recipes/finetune.py --base_checkpoint``: config.json and the weights, in
safetensors.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from context_module.adapters import DecoderAdapter
from context_module.adapters.denoiser import DenoiserAdapter, DenoisingObjective
from context_module.adapters.diffusers import AutoencoderKLObjective, DiffusersAdapter
from context_module.adapters.lightweight import LightweightAdapter, LightweightObjective
from context_module.adapters.nvae import NVAE, NVAEAdapter, NVAEConfig, NVAEObjective
from context_module.adapters.transformers import LanguageModelObjective, TransformersAdapter
from context_module.cli import TrainingArguments, argument, parse_arguments, run_recipe
from context_module.data import ContextDataset, TextContextDataset
from context_module.drawing import labelled_samples
from context_module.errors import DataError
from context_module.io import CONFIG_FILE, WEIGHTS_FILE, upload
from context_module.training import RunDirectory, Trainer, make_accelerator

# of all families
BASE_FILES = (CONFIG_FILE, WEIGHTS_FILE, "diffusion_pytorch_model.safetensors", "README.md")
PIPELINE_FILES = ("model_index.json", "scheduler/*", "unet/*", "encoder/*")
TEXT_FILES = ("generation_config.json", "special_tokens_map.json", "tokenizer*")


@dataclass(kw_only=True)
class PretrainArguments(TrainingArguments):
    """The flags of this recipe."""

    base: Literal["nvae", "lightweight", "diffusers", "denoiser", "transformers"] = argument(
        "nvae", help="family of the base"
    )
    resolution: int | None = argument(None, help="height and width of the images; default: the data's own")
    contexts: list[str] = argument([], help="training contexts to learn from, their labels unused; default: all")
    learning_rate: float = argument(1e-2, help="peak learning rate; it falls to 1%% along a cosine")
    max_tokens: int = argument(64, help="transformers: limit of texts, their end token included")
    hidden_size: int = argument(96, help="transformers: width of the language model")
    num_layers: int = argument(3, help="transformers: layers of the language model")
    max_grad_norm: float = argument(200.0, help="gradients are clipped to this norm")
    beta: float | None = argument(None, help="weight of the KL; default: lightweight, diffusers: 1; denoiser: 0.1")
    channels: int = argument(16, help="nvae: channels at the images' size; doubled by every halving of it")
    num_scales: int = argument(2, help="nvae: resolutions that hold latents")
    groups_per_scale: int = argument(1, help="nvae: latent groups of every scale")
    latent_channels: int = argument(8, help="nvae: channels of a latent group")
    num_blocks: int = argument(2, help="nvae: halvings of the size before the first scale")
    cells: int = argument(1, help="nvae: cells per block and group, in encoder and decoder")
    ops: str = argument("res_bnswish", help="nvae: preset of the cells' operations")
    likelihood: Literal["bernoulli", "normal", "logistic_mixture"] = argument("bernoulli", help="nvae: of the pixels")
    spectral_weight: float = argument(1e-2, help="nvae: weight of the spectral and batch-norm regularisers")


def build(args: PretrainArguments, images: ContextDataset) -> tuple[DecoderAdapter, nn.Module]:
    """The base and its objective, for images, or texts, such as these."""
    if args.base == "transformers":
        if not isinstance(images, TextContextDataset):
            raise DataError(f"--data {args.data} holds images, a language model takes texts: such as --data grammar")
        sizes = {"hidden_size": args.hidden_size, "num_layers": args.num_layers, "max_tokens": args.max_tokens}
        language_model = TransformersAdapter.from_texts(images.texts(), **sizes)
        return language_model, LanguageModelObjective(language_model)
    image_shape, beta = images.image_shape, {} if args.beta is None else {"beta": args.beta}
    if args.base == "lightweight":
        lightweight = LightweightAdapter.fresh(image_shape)
        return lightweight, LightweightObjective(lightweight.net, **beta)
    if args.base == "diffusers":
        autoencoder = DiffusersAdapter.fresh(image_shape)
        return autoencoder, AutoencoderKLObjective(autoencoder, **beta)
    if args.base == "denoiser":
        denoiser = DenoiserAdapter.fresh(image_shape)
        return denoiser, DenoisingObjective(denoiser, **beta)
    channels, height, width = image_shape
    if height != width:
        raise ValueError(f"an NVAE takes square images, got {height}x{width}: set --resolution")
    config = NVAEConfig(
        image_size=height,
        in_channels=channels,
        likelihood=args.likelihood,
        num_scales=args.num_scales,
        groups_per_scale=args.groups_per_scale,
        ada_groups=False,
        latent_channels=args.latent_channels,
        encoder_channels=args.channels,
        decoder_channels=args.channels,
        num_blocks=args.num_blocks,
        preprocess_cells=args.cells,
        postprocess_cells=args.cells,
        encoder_cells=args.cells,
        decoder_cells=args.cells,
        ops=args.ops,
    )
    net = NVAE(config)
    return NVAEAdapter(net), NVAEObjective(net, args.spectral_weight)


def few(data: ContextDataset, n: int) -> Tensor:
    """The first n images of every context, in one tensor."""
    return torch.cat([data.select(context)[:n] for context in data.context_names])


@torch.no_grad()
def written(base: DecoderAdapter, n: int = 8) -> dict[str, list[str]]:
    """Texts that a language model writes."""
    generator = torch.Generator().manual_seed(0)
    drawn = base.decode(base.sample_latent(n, generator), generator=generator).sample(generator)
    return {"samples": base.present(drawn)}


@torch.no_grad()
def preview(base: DecoderAdapter, x: Tensor) -> dict[str, Tensor]:
    """Images, what the base makes of them, and samples of its prior."""
    generator = torch.Generator().manual_seed(0)
    encoding = base.encode(x.to(base.device))
    return {
        "images": x,
        "reconstructions": base.decode(encoding.mean, encoding, temperature=0.0).mean,
        "samples": base.decode(base.sample_latent(len(x), generator), generator=generator).mean,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(PretrainArguments, description=__doc__.splitlines()[0], argv=argv)
    run = RunDirectory(args.output_dir, overwrite=args.overwrite, resume=args.resume_from_checkpoint)
    accelerator = make_accelerator(args)
    repository = args.hub_repository() if accelerator.is_main_process else None
    data = args.load(resolution=args.resolution)
    base, objective = build(args, data.train)
    if base.kind == "texts":
        data = args.load(**base.data_settings())
    images = data.train.only(args.contexts) if args.contexts else data.train
    train_data, val_data = images.split(args.val_fraction, seed=args.seed)
    examples = few(val_data, 2) if base.kind == "images" else None
    trainer = Trainer(
        accelerator,
        args,
        run,
        objective,
        train_data,
        val_data,
        optimizer=torch.optim.Adam if args.base in ("lightweight", "denoiser", "transformers") else torch.optim.Adamax,
        preview=lambda: labelled_samples(written(base) if examples is None else preview(base, examples)),
    )
    result = trainer.train()
    if accelerator.is_main_process:
        base.eval()
        if isinstance(base, DiffusersAdapter):
            base.calibrate(few(val_data, 50))
        if isinstance(base, DenoiserAdapter):
            base.fit_density(few(train_data, 500))
        base.save(run.path)
        run.finish(dataclasses.asdict(result))
        parameters = sum(parameter.numel() for parameter in base.parameters())
        print(
            f"{run.path}: {args.base} with {parameters:,d} parameters, best validation loss {result.loss:.1f} nats "
            f"per {base.kind[:-1]} at step {result.best_step} of {result.steps}, {result.seconds:.0f} s"
        )
        if repository is not None:
            upload(run.path, repository, (*BASE_FILES, *PIPELINE_FILES, *TEXT_FILES), f"{args.base} base")
            print(f"https://huggingface.co/{repository}")


if __name__ == "__main__":
    run_recipe(main)
