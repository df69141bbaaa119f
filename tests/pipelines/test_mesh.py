"""Meshes: closed, outward, of known size, drawn exactly; files that viewers show upright, lit and in their colours."""

import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from pipelines.mesh import (
    Mesh,
    draw_mesh,
    extract_surface,
    find_grid,
    find_normals,
    find_visible,
    is_watertight,
    measure_volume,
    sample_picture,
    smooth_surface,
)
from pipelines.mesh_files import to_glb, to_linear, to_obj


def make_ball(radius: float = 0.6, size: int = 32, **limits: int) -> Mesh:
    """Make a ball out of a volume."""
    x, y, z = np.meshgrid(*[find_grid(size)] * 3, indexing="ij")
    return extract_surface(radius - np.sqrt(x * x + y * y + z * z), (1.0, 1.0, 1.0), **limits)


def test_a_ball_is_closed_and_has_its_volume() -> None:
    mesh = make_ball()
    assert is_watertight(mesh) and measure_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (find_normals(mesh) * outward).sum(1).min() > 0.97
    assert len(mesh.vertices) - len(mesh.faces) / 2 == 2  # Euler's number of a sphere


def test_a_body_that_fills_its_volume_is_closed_too() -> None:
    mesh = extract_surface(np.ones((6, 8, 10), np.float32), (0.3, 0.4, 0.5))
    assert is_watertight(mesh) and np.abs(mesh.vertices).max(0) == pytest.approx([0.35, 0.45, 0.55], abs=0.06)
    with pytest.raises(ValueError, match="empty"):
        extract_surface(-np.ones((4, 4, 4), np.float32), (1.0, 1.0, 1.0))


def test_a_fine_surface_is_made_coarser_and_stays_closed() -> None:
    mesh = make_ball(max_faces=1500)
    assert 700 < len(mesh.faces) <= 1500 and is_watertight(mesh)
    assert measure_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.05)


def test_an_open_or_turned_surface_is_not_watertight() -> None:
    mesh = make_ball()
    assert not is_watertight(replace(mesh, faces=mesh.faces[1:]))
    turned = mesh.faces.copy()
    turned[0] = turned[0, ::-1]
    assert not is_watertight(replace(mesh, faces=turned))


def test_smoothing_removes_bumps_and_keeps_the_size() -> None:
    mesh = make_ball()
    noise = np.random.default_rng(0).normal(0, 0.02, mesh.vertices.shape)
    rough = replace(mesh, vertices=(mesh.vertices + noise).astype(np.float32))
    smooth = smooth_surface(rough, 10)
    spreads = [np.linalg.norm(part.vertices, axis=1).std() for part in (rough, smooth)]
    assert spreads[1] < 0.5 * spreads[0]
    assert measure_volume(smooth) == pytest.approx(measure_volume(rough), rel=0.03)


def test_a_drawn_ball_is_a_disc_from_every_side() -> None:
    pictures, covers = draw_mesh(make_ball(), [(0.0, 0.0), (130.0, 40.0)], 48)
    steps = find_grid(48)
    distance = np.sqrt(steps[None] ** 2 + steps[:, None] ** 2)
    for cover in covers:
        assert (cover[distance < 0.55] == 1).all() and (cover[distance > 0.65] == 0).all()
    assert pictures.shape == (2, 48, 48, 3)


def test_the_nearest_triangle_is_seen() -> None:
    square = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    red, green = (np.tile(np.array(colour, np.float32), (4, 1)) for colour in ([1, 0, 0], [0, 1, 0]))
    both = Mesh(
        np.concatenate([square + [0, 0, 0.3], square - [0, 0, 0.3]]).astype(np.float32),
        np.concatenate([faces, faces + 4]),
        np.concatenate([red, green]),
    )
    front, back = draw_mesh(both, [(0.0, 0.0), (180.0, 0.0)], 16)[0]
    assert front[8, 8] == pytest.approx([1, 0, 0]) and back[8, 8] == pytest.approx([0, 1, 0])
    assert front[1, 1] == pytest.approx([1, 1, 1])


def test_the_far_side_is_hidden() -> None:
    mesh = make_ball()
    seen = find_visible(mesh, (90.0, 0.0))
    assert seen[mesh.vertices[:, 0] > 0.2].all() and not seen[mesh.vertices[:, 0] < -0.2].any()


def test_a_picture_is_read_upright() -> None:
    picture = np.zeros((8, 8, 3), np.float32)
    picture[0, :, 0] = 1.0  # a red top row
    assert sample_picture(picture, np.array([0.0, 0.0]), np.array([0.875, -0.875]))[:, 0] == pytest.approx([1, 0])


def read_glb(data: bytes) -> tuple[dict, bytes]:
    """Read header and data of a GLB."""
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert magic == b"glTF" and version == 2 and length == len(data)
    (size,) = struct.unpack("<I", data[12:16])
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def test_a_glb_has_linear_colours_normals_and_a_material_that_is_no_metal() -> None:
    mesh = make_ball(size=16)
    mesh = replace(mesh, colours=np.tile(np.array([0.5, 1.0, 0.0], np.float32), (len(mesh.vertices), 1)))
    tree, data = read_glb(to_glb(mesh))
    (primitive,) = tree["meshes"][0]["primitives"]
    assert {"POSITION", "NORMAL", "COLOR_0"} <= set(primitive["attributes"])
    look = tree["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert look["metallicFactor"] == 0 and look["roughnessFactor"] > 0.5
    colours = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    view = tree["bufferViews"][colours["bufferView"]]
    assert colours["normalized"] and list(data[view["byteOffset"] :][:3]) == [round(0.21404 * 255), 255, 0]


def test_files_keep_size_and_direction() -> None:
    mesh = make_ball(size=16)
    mesh = replace(mesh, vertices=(mesh.vertices * [1.0, 0.5, 0.25] + [0, 0.3, 0]).astype(np.float32))
    for data, kind in ((to_glb(mesh), "glb"), (to_obj(mesh), "obj")):
        again = trimesh.load(io.BytesIO(data), file_type=kind, force="mesh")
        assert again.is_watertight and len(again.faces) == len(mesh.faces)
        assert again.extents == pytest.approx(np.ptp(mesh.vertices, 0), abs=1e-3)
        assert again.centroid[1] == pytest.approx(0.3, abs=0.01)
    assert sum(line.startswith(b"v ") for line in to_obj(mesh).splitlines()) == len(mesh.vertices)


def test_light_is_linear_at_its_ends() -> None:
    assert to_linear(np.array([0.0, 0.02, 1.0])) == pytest.approx([0, 0.02 / 12.92, 1])
