"""Pictures of a scene of the user's own, rendered by Blender's Python module (``pip install bpy``)."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from context_module.data.pictures import picture_pixels
from context_module.errors import DataError

__all__ = ["COLOURED", "BlenderScene"]

_RAYS = 32  # a pixel
#: Names of what a scene must have, all of which may be coloured.
COLOURED = ("Ground", "Object", "Spotlight")
_, _OBJECT, _SPOTLIGHT = COLOURED


class BlenderScene:
    """A scene that is rendered with its object and its spotlight in other places and colours.

    Args:
        path: a .blend file with a camera and, by these names, an ``Object``, a ``Spotlight`` (which is turned towards
            the object) and the ``Ground``. Scripts in it do not run.
        resolution: height and width in pixels.

    Attributes:
        digest: a hash of the file.

    Raises:
        DataError: for a file that is missing, that Blender cannot open, or in which something is missing.
        ImportError: without bpy.
    """

    def __init__(self, path: str | Path, resolution: int) -> None:
        self.path, self.resolution = Path(path), resolution
        try:
            self.digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise DataError(f"no scene can be read at {path} ({error.strerror}): expected a .blend file") from None
        self._open()

    def render(
        self,
        place: Sequence[float],
        angles: Sequence[float],
        light: Sequence[float],
        colours: Mapping[str, Sequence[float]],
    ) -> Tensor:
        """A picture, uint8 (3, resolution, resolution); the same arguments give the same bits.

        Args:
            place: of the object, x, y, z in the scene's units.
            angles: of the object about x, y and z, one after the other, in radians.
            light: place of the spotlight.
            colours: RGB in [0, 1] of what is to be coloured, by names of `COLOURED`.
        """
        bpy = _bpy()
        if Path(bpy.data.filepath) != self.path.resolve():  # another scene was opened meanwhile
            self._open()
        objects = bpy.data.objects
        objects[_OBJECT].location, objects[_OBJECT].rotation_euler = place, angles
        spotlight = objects[_SPOTLIGHT]
        spotlight.location = light
        spotlight.constraints.clear()
        spotlight.rotation_mode = "QUATERNION"
        towards = objects[_OBJECT].location - spotlight.location
        spotlight.rotation_quaternion = towards.to_track_quat("-Z", "Y")
        for name, colour in colours.items():
            _paint(bpy, objects[name], colour)
        with tempfile.TemporaryDirectory() as folder, _silent():
            file = Path(folder) / "picture.png"
            bpy.context.scene.render.filepath = str(file)
            bpy.ops.render.render(write_still=True)
            return _pixels(file)

    def _open(self) -> None:
        bpy = _bpy()
        try:
            with _silent():
                bpy.ops.wm.open_mainfile(filepath=str(self.path.resolve()), load_ui=False, use_scripts=False)
        except RuntimeError as error:
            raise DataError(f"Blender cannot open {self.path} ({str(error).strip()})") from None
        scene, known = bpy.context.scene, bpy.data.objects
        if missing := [name for name in COLOURED if name not in known]:
            there = ", ".join(sorted(known.keys())) or "nothing"
            raise DataError(f"{self.path} has no object named {missing[0]!r}; it has {there}: rename them in Blender")
        if known[_SPOTLIGHT].type != "LIGHT":
            raise DataError(f"{_SPOTLIGHT!r} in {self.path} is no light, but of type {known[_SPOTLIGHT].type}")
        if scene.camera is None:
            raise DataError(f"{self.path} has no camera: set the scene's in Blender")
        scene.render.engine = "CYCLES"
        scene.cycles.samples, scene.cycles.seed, scene.cycles.use_denoising = _RAYS, 0, False
        scene.render.resolution_x = scene.render.resolution_y = self.resolution
        scene.render.resolution_percentage = 100
        scene.render.image_settings.file_format = "PNG"
        scene.render.image_settings.color_mode = "RGB"
        scene.render.image_settings.color_depth = "8"


def _bpy() -> Any:
    try:
        import bpy
    except ImportError as error:
        raise ImportError("rendering a Blender scene needs bpy: pip install context-module[blender]") from error
    return bpy


def _paint(bpy: Any, thing: Any, colour: Sequence[float]) -> None:
    """Give a light, or every material of an object, this colour."""
    if thing.type == "LIGHT":
        thing.data.color = colour
        return
    if not thing.data.materials:
        thing.data.materials.append(bpy.data.materials.new(thing.name))
    for material in filter(None, thing.data.materials):
        material.diffuse_color = (*colour, 1.0)
        material.use_nodes = True
        for node in material.node_tree.nodes:
            if node.type == "BSDF_PRINCIPLED":
                base = node.inputs["Base Color"]
                for link in list(base.links):  # a texture
                    material.node_tree.links.remove(link)
                base.default_value = (*colour, 1.0)


def _pixels(file: Path) -> Tensor:
    from PIL import Image

    with Image.open(file) as picture:
        return torch.tensor(picture_pixels(picture, file)).permute(2, 0, 1).contiguous()


@contextmanager
def _silent() -> Iterator[None]:
    """Blender says on the process's own output what it does."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
