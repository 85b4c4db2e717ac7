"""Labelled samples: a grid of pictures, or a table of texts or of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from context_module.errors import ShapeError
from context_module.io import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image


__all__ = ["labelled_grid", "labelled_samples", "labelled_texts", "labelled_vectors", "save_samples"]

_GAP, _TEXT, _EDGE = 2, 13, "#d9d9d9"
_MOVED = 5  # columns of vectors that a row names


def labelled_grid(rows: Mapping[str, Tensor], min_size: int = 64) -> Image:
    """One row of images per label.

    Args:
        rows: label -> images (n, C, H, W) in [0, 1], C 1 or 3; all of one size.
        min_size: small images are enlarged, by a whole factor, to at least this many pixels.

    Returns:
        an RGB `PIL.Image.Image`.

    Raises:
        ShapeError: for no rows, or images of several sizes.
    """
    from PIL import Image, ImageDraw, ImageFont

    shapes = {tuple(images.shape[1:]) for images in rows.values()}
    if len(shapes) != 1:
        raise ShapeError(f"a grid needs images of one shape, got {sorted(shapes) or 'none'}")
    shape = shapes.pop()
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ShapeError(f"a grid needs images (n, C, H, W) with C = 1 or 3, got images of shape {shape}")
    _, height, width = shape
    factor = max(1, -(-min_size // min(height, width)))
    cell_height, cell_width = height * factor + _GAP, width * factor + _GAP
    font = ImageFont.load_default(_TEXT)
    margin = 12 + max(int(font.getlength(label)) for label in rows)
    columns = max(len(images) for images in rows.values())
    grid = Image.new("RGB", (margin + columns * cell_width, len(rows) * cell_height), "white")
    draw = ImageDraw.Draw(grid)
    for row, (label, images) in enumerate(rows.items()):
        top = row * cell_height
        draw.text((6, top + (cell_height - _TEXT) // 2 - 2), label, fill="black", font=font)
        pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte()
        for column, image in enumerate(pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
            picture = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
            left = margin + column * cell_width
            # a grey edge, seen beside black and white pictures alike
            draw.rectangle((left, top, left + cell_width - 1, top + cell_height - 1), fill=_EDGE)
            grid.paste(picture, (left, top))
    return grid


def labelled_texts(rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table: a row per label, its texts below each other.

    >>> print(labelled_texts({"obs": ["a cat .", "a dog ."], "number": ["cats ."]}))
    | context | texts |
    |---|---|
    | obs | a cat .<br>a dog . |
    | number | cats . |
    """
    cells = {
        label: "<br>".join(text.replace("|", "\\|").replace("\n", " ") for text in texts)
        for label, texts in rows.items()
    }
    return "\n".join(["| context | texts |", "|---|---|", *(f"| {label} | {cell} |" for label, cell in cells.items())])


def labelled_vectors(rows: Mapping[str, Tensor], columns: Sequence[str] = ()) -> str:
    """A Markdown table: for every label the columns of its vectors (n, G) that are farthest from the first label's.

    They are named by `columns`, or by number.

    >>> from torch import tensor, zeros
    >>> print(labelled_vectors({"obs": zeros(2, 3), "a": tensor([[0.0, 2.0, 0.0]])}))
    | context | columns that differ most, by how much |
    |---|---|
    | a | 2: +2 |
    """
    means = {label: vectors.float().mean(0).cpu() for label, vectors in rows.items()}
    first, *others = means

    def named(number: int) -> str:
        return columns[number] if columns else str(number + 1)

    lines = ["| context | columns that differ most, by how much |", "|---|---|"]
    for label in others:
        change = means[label] - means[first]
        most = change.abs().topk(min(_MOVED, len(change))).indices.tolist()
        lines.append(f"| {label} | {', '.join(f'{named(k)}: {change[k].item():+.3g}' for k in most if change[k])} |")
    return "\n".join(lines)


def labelled_samples(rows: Mapping[str, Any], columns: Sequence[str] = ()) -> Image | str:
    """`labelled_grid` of images, `labelled_texts` of lists of texts, or `labelled_vectors` of vectors (n, G)."""
    if any(isinstance(samples, Tensor) and samples.ndim == 2 for samples in rows.values()):
        return labelled_vectors(rows, columns)
    texts = all(isinstance(samples, list) for samples in rows.values())
    return labelled_texts(rows) if texts else labelled_grid(rows)


def save_samples(path: str | Path, samples: Image | str) -> Path:
    """Write what `labelled_samples` returns to `path`, which ends with ``.png`` or, for texts, ``.md`` then."""
    if isinstance(samples, str):
        target = Path(path).with_suffix(".md")
        write_atomically(target, lambda temporary: temporary.write_text(f"{samples}\n", encoding="utf-8"))
    else:
        target = Path(path)
        write_atomically(target, lambda temporary: samples.save(temporary, format="PNG"))
    return target
