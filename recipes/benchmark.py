"""Cost of the context module, as ratios measured in one run.

    python recipes/benchmark.py
    python recipes/benchmark.py --of overhead --repeats 20
    python recipes/benchmark.py --of scale --record outputs/speed.json

- ``contexts``: mixed-context batches against the textbook way, which keeps dense weights for all concepts, masks them
  anew for each context, and passes each context's share of the batch through on its own. Both compute the same
  function of the same parameters, and the same gradients (checked first).
- ``inversion``: the factorised concept inversion and posterior heads against dense ones, as spatial latents grow.
- ``overhead``: all that a wrapped base does in a training step besides running the base, against the base alone: an
  AutoencoderKL of diffusers with random weights, which encodes images, decodes them, and passes the gradient of their
  likelihood on to the decoder input. The small part is timed by itself: the difference of two steps with the base in
  them is mostly noise.
- ``equations``: the structural form's equations solved against iterated, as concepts become many.
- ``decoding``: the NVAE that ships with channels last against without, by 128 images at a time against by 1,024, and
  with batch norms folded into convolutions against as layers.
- ``reading``: JPEG files read at a part of their size against whole ones scaled down.
- ``scale``: edits of more and more concepts, each with a hundred images of its own: the closed form with its search
  for a graph, a training step, generating under one intervention and under three, and the most memory.
- ``baselines``: a training step of each of the field's other systems against one of beta-VAE, on the same networks and
  batch; and beta-VAE of the package pythae, where it is installed (``pip install pythae``), with these networks.

Only ratios are printed: absolute times say more about the machine than about the code. ``--record`` keeps those of
this machine, and ``--check`` fails on one that has become a fifth worse than what was kept.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from context_module import ContextModule, ContextModuleConfig, wrap_decoder
from context_module.adapters import Decoding
from context_module.adapters.nvae import NVAE
from context_module.baselines import available_baselines, get_baseline
from context_module.cli import argument, parse_arguments, run_recipe
from context_module.data import ArrayContextDataset, ContextData
from context_module.io import read_json, write_json
from context_module.nn import Inversion, PosteriorHeads
from context_module.study import (
    Scaled,
    compare_decoding,
    compare_equations,
    compare_reading,
    compare_with_textbook,
    measure_scale,
    ratio,
)

# the widths that recipes/finetune.py trains, about
MODULE: dict[str, Any] = {"noise_width": 16, "concept_width": 16, "free_blocks": 2, "inversion_width": 256}
SMALL_BATCH = 64
SHIPPED = Path(__file__).parent / "pretrained" / "nvae-quad32"
WORSE = 1.2  # times what was recorded

Table = Literal["contexts", "inversion", "overhead", "equations", "decoding", "reading", "scale", "baselines"]
Costs = dict[str, float]  # by row, as multiples of what it is held against


@dataclass(kw_only=True)
class BenchmarkArguments:
    """The flags of this recipe."""

    of: list[Table] = argument(["contexts", "inversion", "overhead"], help="what to measure")
    num_concepts: list[int] = argument([6, 16, 64], help="contexts: numbers of concepts")
    interventions: int = argument(1, help="contexts: most interventions at once in a sample")
    batch_size: int = argument(512, help="contexts: samples in the mixed batch")
    sizes: list[int] = argument([16, 32, 64, 128], help="inversion, reading: height and width")
    latent_channels: int = argument(4, help="inversion: channels of the latents")
    base_channels: list[int] = argument([64, 128, 256], help="overhead: of the base")
    resolution: int = argument(64, help="overhead: height and width of the images")
    blocks: list[int] = argument([34, 66, 130], help="equations: numbers of concepts and free blocks")
    nvae: str = argument(str(SHIPPED), help="decoding: a folder of NVAE.save_pretrained")
    scales: list[int] = argument([4, 16, 64, 256, 1024], help="scale: numbers of concepts")
    methods: list[str] = argument([], help="baselines: which methods; default: all of images")
    repeats: int = argument(10, help="pairs of timings per row")
    record: str | None = argument(None, help="a JSON file to keep the ratios in")
    check: str | None = argument(None, help="such a file: fail where a ratio is a fifth worse than in it")


class Embedded(nn.Module):
    """What the latent objective trains of a module: noise to decoder inputs, and features to noise."""

    def __init__(self, latent_shape: tuple[int, ...], inversion: Inversion) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = ContextModuleConfig(
            concepts=tuple(f"c{k}" for k in range(6)),
            latent_shape=latent_shape,
            num_features=math.prod(latent_shape),
            **MODULE,
            inversion=inversion,
        )
        self.module, self.heads = ContextModule(config), PosteriorHeads(config)

    def step(self, latents: Tensor, mask: Tensor) -> None:
        """Forward and backward."""
        self.zero_grad()
        posterior = self.heads(latents.flatten(1), mask)
        (self.module(posterior.rsample(), mask) - latents).square().mean().backward()


def compare_inversions(latent_shape: tuple[int, ...], batch_size: int, repeats: int) -> tuple[int, int, float]:
    """Parameters of dense and of factorised layers, and how many times faster the factorised ones are."""
    dense, factorised = Embedded(latent_shape, "dense"), Embedded(latent_shape, "factorised")
    latents, mask = torch.randn(batch_size, *latent_shape), torch.rand(batch_size, 6) < 0.2
    faster = ratio(lambda: dense.step(latents, mask), lambda: factorised.step(latents, mask), repeats)
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (dense, factorised)]
    return counts[0], counts[1], faster


@dataclass
class Echo:
    """In place of a base's likelihood: takes no time, and hands the decoder input a gradient."""

    latent: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return self.latent.flatten(1).sum(1)


def measure_overhead(channels: tuple[int, ...], resolution: int, batch_size: int, repeats: int) -> tuple[int, float]:
    """Parameters of a base, and how much a module adds to its step, as a share."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    base = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=2,
        sample_size=resolution,
    )
    model = wrap_decoder(base, [f"c{k}" for k in range(6)], **MODULE).train()
    x, mask = torch.rand(batch_size, 3, resolution, resolution), torch.rand(batch_size, 6) < 0.2
    encode, decode = model.base.encode, model.base.decode
    with torch.no_grad():
        encoding = encode(x)

    def bare() -> None:
        with torch.no_grad():
            latent = encode(x).mean.clone()
        decode(latent.requires_grad_(), encoding).log_prob(x).mean().backward()

    def added() -> None:
        model.zero_grad()
        model(x, mask).loss.mean().backward()

    model.base.encode = lambda x: encoding
    model.base.decode = lambda latent, encoding, **_: Decoding(Echo(latent), latent.new_zeros(len(latent)))
    return sum(parameter.numel() for parameter in base.parameters()), ratio(added, bare, repeats)


def baseline_step(method: str, images: ArrayContextDataset) -> Callable[[], None]:
    """Loss, gradients and optimiser step of a method on these images, as pairs or triplets where it takes those."""
    torch.manual_seed(0)
    kind = get_baseline(method)
    graph = {"graph": ["full"]} if "graph" in {field.name for field in fields(kind.settings_class)} else {}
    settings = kind.settings_class(**graph).completed(ContextData(images))
    model = kind(settings, images.image_shape, 10 * len(images)).train()
    view = model.view(images)
    batch = view.batch(torch.arange(len(view)))
    return stepper(model, lambda: model(batch, 0.5)["loss"].mean())


def pythae_step(images: ArrayContextDataset) -> Callable[[], None]:
    """The same of pythae's beta-VAE, with the networks of ours."""
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    torch.manual_seed(0)
    settings = get_baseline("beta_vae").settings_class()
    ours = get_baseline("beta_vae")(settings, images.image_shape, len(images))

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = ours.encoder

        def forward(self, x: Tensor) -> ModelOutput:
            mean, log_var = self.net(x).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = ours.decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    config = BetaVAEConfig(
        input_dim=images.image_shape, latent_dim=settings.latents, reconstruction_loss="bce", beta=settings.beta
    )
    model = BetaVAE(config, encoder=Encoder(), decoder=Decoder()).train()
    batch = {"data": images.select("obs")}
    return stepper(model, lambda: model(batch).loss)


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward, backward, and a step of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(BenchmarkArguments, description=__doc__.splitlines()[0], argv=argv)
    known = read_json(args.check) if args.check else {}
    costs: Costs = {}
    for name in args.of:
        costs |= {f"{name}: {row}": cost for row, cost in TABLES[name](args).items()}
    if args.record:
        Path(args.record).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.record, costs)
    ratios = {row: cost / known[row] for row, cost in costs.items() if row in known}
    worse = [f"{row} ({ratio - 1:.0%})" for row, ratio in ratios.items() if ratio > WORSE]
    if worse:
        raise SystemExit(f"error: slower than {args.check} has it: {', '.join(worse)}")


def contexts_table(args: BenchmarkArguments) -> Costs:
    print(
        f"forward + backward, batch {args.batch_size}, noise 32, concept 8, depth 2; contexts with at most "
        f"{args.interventions} interventions; {torch.get_num_threads()} threads"
    )
    print(f"{'concepts':>8}  {'form':<11} times faster than one pass per context with dense masked weights")
    costs = {}
    for num_concepts in args.num_concepts:
        for form in ("reduced", "structural"):
            faster = compare_with_textbook(num_concepts, args.interventions, form, args.batch_size, args.repeats)
            print(f"{num_concepts:>8}  {form:<11} {faster:.1f}x", flush=True)
            costs[f"{num_concepts} {form}"] = 1 / faster
    return costs


def inversion_table(args: BenchmarkArguments) -> Costs:
    print(f"forward + backward of module and posterior heads, batch {SMALL_BATCH}, 6 concepts, 2 free blocks")
    print(f"{'latents':>12}  {'dense':>12}  {'factorised':>12}  parameters; times faster, factorised")
    costs = {}
    for size in args.sizes:
        shape = (args.latent_channels, size, size)
        dense, factorised, faster = compare_inversions(shape, SMALL_BATCH, args.repeats)
        print(f"{'x'.join(map(str, shape)):>12}  {dense:>12,d}  {factorised:>12,d}  {faster:.1f}x", flush=True)
        costs[str(size)] = 1 / faster
    return costs


def overhead_table(args: BenchmarkArguments) -> Costs:
    print("forward + backward of a context module and its heads, beside those of the frozen base alone; batch 4")
    parameters, share = measure_overhead(tuple(args.base_channels), args.resolution, 4, args.repeats)
    size = f"{args.resolution}x{args.resolution}"
    print(f"{parameters:,d} parameters, {size} images: +{share:.1%}", flush=True)
    return {size: share}


def equations_table(args: BenchmarkArguments) -> Costs:
    print("forward + backward, batch 448, one intervention a row, blocks of 8 values")
    print(f"{'blocks':>8}  times faster solved than iterated")
    costs = {}
    for blocks in args.blocks:
        faster = compare_equations(blocks, 8, args.repeats)
        print(f"{blocks:>8}  {faster:.1f}x", flush=True)
        costs[str(blocks)] = 1 / faster
    return costs


def decoding_table(args: BenchmarkArguments) -> Costs:
    layout, chunks, folded = compare_decoding(NVAE.from_pretrained(args.nvae), args.repeats)
    print(
        f"decoding with an NVAE: {layout:.1f}x faster with channels last, {chunks:.1f}x by 128 at a time, "
        f"{folded:.2f}x with batch norms folded into convolutions",
        flush=True,
    )
    return {"layout": 1 / layout, "chunks": 1 / chunks, "folded": 1 / folded}


def reading_table(args: BenchmarkArguments) -> Costs:
    print("JPEG files of 640x480, at a part of their size")
    costs = {}
    for size in args.sizes:
        faster = compare_reading(size, args.repeats)
        print(f"{size:>8}  {faster:.1f}x faster than whole ones scaled down", flush=True)
        costs[str(size)] = 1 / faster
    return costs


def scale_table(args: BenchmarkArguments) -> Costs:
    print(f"edits of latents of 64 values, as multiples of those of {args.scales[0]} concepts")
    columns = [field.name for field in fields(Scaled)]
    print(f"{'concepts':>8}" + "".join(f"{column:>10}" for column in columns))
    first, costs = None, {}
    for number in args.scales:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            found = asdict(alone.submit(measure_scale, number).result())
        first = first or found
        multiples = {column: found[column] / first[column] for column in columns}
        print(f"{number:>8}" + "".join(f"{multiple:>10.1f}" for multiple in multiples.values()), flush=True)
        costs |= {f"{number} {column}": multiple for column, multiple in multiples.items()}
    return costs


def baselines_table(args: BenchmarkArguments) -> Costs:
    print(f"training step, batch {SMALL_BATCH} of 1x64x64, conv64 networks, as a multiple of beta_vae's")
    images = torch.zeros(SMALL_BATCH, 1, 64, 64, dtype=torch.uint8)
    images[:, :, 20:40, 20:40] = 255
    factors = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    contexts = torch.arange(SMALL_BATCH) % 2
    data = ArrayContextDataset(images, contexts, ["obs", "a"], ["a"], factors, ["a", "b"])
    reference, costs = baseline_step("beta_vae", data), {}
    for method in args.methods or [name for name in available_baselines() if get_baseline(name).kind == "images"]:
        costs[method] = ratio(baseline_step(method, data), reference, args.repeats)
        print(f"{method:>14}  {costs[method]:.2f}x", flush=True)
    if find_spec("pythae"):
        whole = ArrayContextDataset(images, torch.zeros_like(contexts), ["obs"], ["a"])
        print(f"{'pythae':>14}  {ratio(pythae_step(whole), reference, args.repeats):.2f}x (its beta-VAE)", flush=True)
    return costs


TABLES: dict[str, Callable[[BenchmarkArguments], Costs]] = {
    "contexts": contexts_table,
    "inversion": inversion_table,
    "overhead": overhead_table,
    "equations": equations_table,
    "decoding": decoding_table,
    "reading": reading_table,
    "scale": scale_table,
    "baselines": baselines_table,
}


if __name__ == "__main__":
    run_recipe(main)
