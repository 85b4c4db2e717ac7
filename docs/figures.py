"""Draws the pictures in docs/figures with the library itself; nothing is trained, so it takes seconds.

python docs/figures.py
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from context_module import ContextModuleConfig
from context_module.adapters import load_base
from context_module.contexts import Concepts
from context_module.data import ContextData, quad
from context_module.drawing import edge_map, labelled_grid, png
from context_module.nn import CausalGraph, InterventionLayer
from context_module.training.objectives import acyclicity

NVAE = Path(__file__).resolve().parents[1] / "recipes" / "pretrained" / "nvae-quad32"
INK, ACCENT, MUTED = "#1f2933", "#b3401f", "#8795a1"
_PER_ROW = 8


def write(folder: Path) -> None:
    """Draw every figure as ``NAME.png``, with a palette of its own: a repository should stay small."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        picture = Image.open(BytesIO(png(draw()))).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)


def contexts() -> Any:
    """Every training context of the quad data and three held-out pairs, rendered by the simulator."""
    data = _data("independent", 64)
    assert data.held_out is not None
    pairs = ("quad1+quad2", "quad1+size", "quad2+orientation")
    rows = {name: data.train.select(name, _PER_ROW) for name in data.train.context_names}
    return labelled_grid(rows | {name: data.held_out.select(name, _PER_ROW) for name in pairs}, min_size=48)


def base() -> Any:
    """What the base that ships knows: real images, their reconstructions, and its own samples."""
    nvae, data = load_base("nvae", NVAE), _data("independent", 32)
    generator = torch.Generator().manual_seed(0)
    rows: dict[str, Tensor] = {}
    with torch.no_grad():
        for context in ("obs", "quad1"):
            rows[context] = x = data.train.select(context, _PER_ROW)
            encoding = nvae.encode(x)
            assert encoding.mean is not None
            rows[f"{context}, reconstructed"] = nvae.decode(encoding.mean, encoding, temperature=0.0).mean
        latent = nvae.sample_latent(_PER_ROW, generator)
        rows["samples of the base"] = nvae.decode(latent, generator=generator).mean
    return labelled_grid(rows, min_size=48)


def graph() -> Any:
    """The true graph among the concepts of the dependent quad data, each edge of strength one."""
    edges = _data("dependent", 32).graph
    assert edges is not None
    names = ("quad1", "quad2", "quad3", "quad4", "size", "orientation")
    strengths = torch.zeros(len(names), len(names))
    for cause, effect in edges:
        strengths[names.index(effect), names.index(cause)] = 1.0
    return edge_map(CausalGraph(names, strengths))


def forms() -> Any:
    """What a joint intervention on a cause and its mediator does, in either form of the intervention layer."""
    figure, axes = _figure()
    concepts = Concepts(["X", "Y", "W"])
    settings = ("obs", "X", "Y", "X+Y")
    places = torch.arange(len(settings)).double()
    for shift, (form, colour) in zip((-0.18, 0.18), (("structural", INK), ("reduced", ACCENT)), strict=True):
        layer = _chain(form)
        values = []
        for setting in settings:
            mask = concepts.mask(setting, 1)
            exogenous = torch.where(mask, 3.0, 1.0)  # one, and three where it is replaced
            with torch.no_grad():
                values.append(layer(exogenous, mask)[0, 2].item())
        axes.bar((places + shift).tolist(), values, 0.34, color=colour, label=form)
    axes.set_xticks(places.tolist(), ["obs", "do(X)", "do(Y)", "do(X, Y)"])
    axes.set_ylabel("value of W")
    axes.legend(frameon=False)
    return figure


def cycles() -> Any:
    """The penalty on cycles of two concepts, as the edge back grows beside an edge of strength one."""
    figure, axes = _figure()
    strengths = torch.linspace(0, 1, 50)
    penalties = [acyclicity(torch.tensor([[0.0, 1.0], [float(back), 0.0]])).item() for back in strengths]
    axes.plot(strengths.tolist(), penalties, color=INK)
    axes.set_xlabel("norm of the edge back")
    axes.set_ylabel("penalty")
    return figure


def module() -> Any:
    """The three layers, by the block."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 8.4), ylim=(-0.35, 3.1))
    axes.set_axis_off()
    blocks = (("quad1", INK), ("size", ACCENT), ("free", MUTED))
    stages = ((0.9, "noise $z$"), (2.9, r"exogenous $\varepsilon$"), (4.9, "concept values $c$"))
    for x, title in stages:
        axes.text(x, 2.95, title, ha="center", fontsize=10, color=INK)
        for row, (name, colour) in enumerate(blocks):
            _box(axes, x, 2.3 - row, name, colour)
    for row in range(3):
        _arrow(axes, (1.42, 2.3 - row), (2.38, 2.3 - row))
        _arrow(axes, (3.42, 2.3 - row), (4.38, 2.3 - row))
        _arrow(axes, (5.42, 2.3 - row), (6.0, 1.3 + 0.25 * (1 - row)))
    cut = {"arrowstyle": "->", "color": ACCENT, "linewidth": 1.3, "linestyle": "dashed"}
    axes.annotate("", (4.9, 1.6), (4.9, 2.0), arrowprops=cut)  # edges into the concept intervened on
    axes.annotate("", (4.9, 1.0), (4.9, 0.6), arrowprops=cut)
    bent = {"arrowstyle": "->", "color": MUTED, "linewidth": 1.3, "connectionstyle": "arc3,rad=-0.75"}
    axes.annotate("", (4.4, 2.3), (4.4, 0.3), arrowprops=bent)  # another edge, as ever
    _box(axes, 6.6, 1.3, "decoder\ninput $e$", INK, height=0.9)
    _box(axes, 7.85, 1.3, "decoder\nof the base", MUTED, height=0.9)
    _arrow(axes, (7.12, 1.3), (7.33, 1.3))
    for x, title in ((1.9, "embedding"), (3.9, "intervention"), (5.75, "inversion")):
        axes.text(x, -0.3, title, ha="center", fontsize=9, color=MUTED, style="italic")
    return figure


#: by the name of its file
FIGURES: dict[str, Callable[[], Any]] = {
    "base": base,
    "contexts": contexts,
    "cycles": cycles,
    "forms": forms,
    "graph": graph,
    "module": module,
}


def _data(version: str, resolution: int) -> ContextData:
    return quad(version, resolution=resolution, samples_per_context=_PER_ROW, held_out_samples=_PER_ROW)


def _chain(form: Any) -> InterventionLayer:
    """X -> Y -> W, an effect of one each; the reduced form's total effects are those of one intervention."""
    config = ContextModuleConfig(
        concepts=("X", "Y", "W"), latent_shape=(1,), num_features=1, noise_width=1, concept_width=1, depth=1, form=form
    )
    layer = InterventionLayer(config)
    direct, total = torch.zeros(3, 3), torch.zeros(3, 3)  # causes in rows
    direct[0, 1] = direct[1, 2] = 1.0
    total[0, 1] = total[1, 2] = total[0, 2] = 1.0
    with torch.no_grad():
        layer.effects.copy_(direct if form == "structural" else total)
        if layer.interventional_effects is not None:
            layer.interventional_effects.copy_(total)
    return layer


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _box(axes: Any, x: float, y: float, text: str, colour: str, height: float = 0.5) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - 0.45, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, 0.9, height, boxstyle="round,pad=0.04", facecolor="white", edgecolor=colour))
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=colour)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.1})


if __name__ == "__main__":
    write(Path(__file__).resolve().parent / "figures")
