"""Writing a mesh as GLB and OBJ, so that viewers show it upright, lit and in its colours.

A glTF file wants linear colours and a material: without one, viewers take it for polished metal and show it black.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import trimesh

from pipelines.mesh import Mesh, find_normals

ROUGHNESS = 0.9


def to_glb(mesh: Mesh) -> bytes:
    """Write a GLB whose one primitive has COLOR_0 in linear light and a rough material that is no metal."""
    linear = to_linear(mesh.colours)
    solid = _to_trimesh(mesh, linear)
    scene = trimesh.Scene({"object": solid})
    data: bytes = trimesh.exchange.gltf.export_glb(scene, include_normals=True, tree_postprocessor=_add_material)
    return data


def to_obj(mesh: Mesh) -> bytes:
    """Write an OBJ with the colours of a screen behind every corner, as most programs read it."""
    text: str = trimesh.exchange.obj.export_obj(_to_trimesh(mesh, mesh.colours), include_color=True)
    return text.encode("utf-8")


def to_linear(colours: np.ndarray) -> np.ndarray:
    """Turn colours of a screen into shares of light, both 0..1. Source: IEC 61966-2-1."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _to_trimesh(mesh: Mesh, colours: np.ndarray) -> Any:
    levels = np.clip(np.rint(colours * 255), 0, 255).astype(np.uint8)
    opaque = np.concatenate([levels, np.full((len(levels), 1), 255, np.uint8)], 1)
    return trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_colors=opaque, vertex_normals=find_normals(mesh), process=False
    )


def _add_material(tree: dict[str, Any]) -> None:
    """Give every primitive the material."""
    tree["materials"] = [
        {
            "name": "painted",
            "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": ROUGHNESS},
            "doubleSided": True,
        }
    ]
    for shape in tree["meshes"]:
        for primitive in shape["primitives"]:
            primitive["material"] = 0
