"""A small radiance field: two grids, density and colour, how they look from any side, and the surface inside them.

Rays have no perspective, see `turntable_camera.py`; grids cover -1..1 in all directions, rows of a grid in the order
z, y, x, sample i of n at (i + 0.5) / n * 2 - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from pipelines.mesh import Mesh, draw_mesh, extract_surface, find_normals, smooth_surface
from pipelines.turntable_camera import Angle, find_pixel_centres, make_axes

# Rays run from one side of this to the other, in world units.
REACH = 1.2
# The opacity of a voxel of raw density 0: nearly clear, so that fog costs something from the start.
FIRST_ALPHA = 1e-2
_BIAS = float(np.log(1 / (1 - FIRST_ALPHA) - 1))
# Raw density that a voxel inside all outlines starts with, solid enough to be part of the surface, and one outside.
_HULL_INSIDE, _HULL_OUTSIDE = 4.0, -6.0
# The opacity of a voxel at the surface, and what it is chosen from: the longer a fit, the denser its voxels.
SURFACE_ALPHA = 0.2
SURFACE_ALPHAS = (0.15, 0.175, 0.2, 0.25, 0.3, 0.35)
BLUR_VOXELS = 0.7
SMOOTH_ROUNDS = 6
HIDDEN = float(np.log(2))
# The colour of a vertex is looked up along a short ray through it, in voxels along its normal.
SKIN_ABOVE, SKIN_BELOW, SKIN_STEP = 1.5, -4.0, 0.5


@dataclass(frozen=True, eq=False)
class Field:
    """Hold the grids. Shapes: density (1, 1, n, n, n) raw, colour (1, 3, n, n, n) before the sigmoid, float32."""

    density: torch.Tensor
    colour: torch.Tensor

    @property
    def num_voxels(self) -> int:
        """Return the number of voxels along an edge."""
        return self.density.shape[-1]

    def copy(self) -> Field:
        """Return a field that no longer changes with this one."""
        return Field(self.density.detach().clone(), self.colour.detach().clone())


def make_field(
    masks: torch.Tensor, angles: Sequence[Angle], num_voxels: int = 64, *, pictures: torch.Tensor | None = None
) -> Field:
    """Start a field from what all outlines have in common, in the mean of the colours that the views have there.

    Shapes: masks (v, H, H) and pictures (v, 3, H, H), float32 in 0..1, one per angle; without pictures it is grey.
    """
    place = torch.from_numpy(find_pixel_centres(num_voxels))
    z, y, x = torch.meshgrid(place, place, place, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    common, colour = torch.ones(len(points)), torch.full((3, len(points)), 0.5)
    for index, angle in enumerate(angles):
        right, up, _ = (torch.from_numpy(axis) for axis in make_axes(*angle))
        # Rows of a picture run down.
        where = torch.stack([points @ right, -(points @ up)], -1)[None, None]
        seen = F.grid_sample(masks[None, None, index], where, padding_mode="zeros", align_corners=False)
        common = torch.minimum(common, seen.reshape(-1))
        if pictures is not None:
            colours = F.grid_sample(pictures[None, index], where, padding_mode="border", align_corners=False)
            colour += (colours[0, :, 0] - colour) / (index + 1)
    raw = _HULL_OUTSIDE + (_HULL_INSIDE - _HULL_OUTSIDE) * common
    shape = (num_voxels,) * 3
    return Field(raw.reshape(1, 1, *shape), torch.logit(colour.clamp(0.02, 0.98)).reshape(1, 3, *shape))


def make_rays(angles: Sequence[Angle], size_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where rays cross the middle plane (v, H, W, 3) and their directions away from the camera (v, 3)."""
    steps = torch.from_numpy(find_pixel_centres(size_px))
    planes, ahead = [], []
    for angle in angles:
        right, up, towards = (torch.from_numpy(axis) for axis in make_axes(*angle))
        planes.append(steps[None, :, None] * right - steps[:, None, None] * up)
        ahead.append(-towards)
    return torch.stack(planes), torch.stack(ahead)


def shoot(
    field: Field, middles: torch.Tensor, directions: torch.Tensor, *, num_samples: int, offset: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Look along rays.

    Shapes:  middles, directions (r, 3); offset a number or (r, 1), where in its step a sample lies, 0..1.
    Returns: colours on white (r, 3) and opacity (r,), both 0..1.
    Source:  Sun et al. 2022, arXiv 2111.11215, equations 6 and 9: alpha = 1 - (1 + exp(density + bias)) ^ -step.
    """
    step = 2 * REACH / num_samples
    along = (torch.arange(num_samples) + offset) * step - REACH
    points = middles[:, None] + along.expand(len(middles), -1)[..., None] * directions[:, None]
    where = points[None, :, :, None]
    density = F.grid_sample(field.density, where, padding_mode="zeros", align_corners=False).reshape(len(middles), -1)
    # Outside the grid is nothing, while its padding of 0 would be thin fog.
    outside = points.abs().amax(-1) > 1
    thickness = F.softplus(density + _BIAS) * (step * field.num_voxels / 2)
    thickness = thickness.masked_fill(outside, 0)
    passed = torch.cumsum(thickness, 1)
    weights = torch.exp(thickness - passed) * (1 - torch.exp(-thickness))
    colour = F.grid_sample(field.colour, where, padding_mode="border", align_corners=False)[0, ..., 0]
    opacity = weights.sum(1)
    return (torch.sigmoid(colour) * weights).sum(2).T + (1 - opacity)[:, None], opacity


@torch.no_grad()
def draw_field(
    field: Field, angles: Sequence[Angle], size_px: int = 64, *, num_samples: int = 96
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a field from several sides; returns pictures (v, 3, H, W) on white and opacity (v, H, W), 0..1."""
    pictures, opacities = [], []
    for plane, direction in zip(*make_rays(angles, size_px)):
        flat = plane.reshape(-1, 3)
        rgb, opacity = shoot(field, flat, direction.expand(len(flat), 3), num_samples=num_samples, offset=0.5)
        pictures.append(rgb.T.reshape(3, size_px, size_px))
        opacities.append(opacity.reshape(size_px, size_px))
    return torch.stack(pictures), torch.stack(opacities)


def to_mesh(field: Field, *, level: float = SURFACE_ALPHA, max_faces: int = 30_000) -> Mesh:
    """Take the surface out of a field, smooth it, and colour it as its views see it.

    Raises: ValueError if the field is empty.
    """
    alpha = _find_alpha(field)
    solid = ndimage.gaussian_filter(alpha, BLUR_VOXELS)
    solid = keep_largest(solid, level)
    # What no ray reaches keeps any density: it is solid, or the model would have walls inside that nobody sees.
    is_closed_in = ndimage.binary_fill_holes(solid > level) & (solid <= level)
    solid[find_inside(np.where(solid > 0, alpha, 0)) | is_closed_in] = 1.0
    mesh = extract_surface((solid - level).transpose(2, 1, 0), (1.0, 1.0, 1.0), max_faces=max_faces)
    mesh = smooth_surface(mesh, SMOOTH_ROUNDS)
    return replace(mesh, colours=_look_at_skin(field, mesh))


def _look_at_skin(field: Field, mesh: Mesh) -> np.ndarray:
    """Return the colours (n, 3) that a camera sees that looks straight at each vertex from close by.

    Colours just outside the skin were never seen, those far inside neither: only a ray weighs them as the fit did.
    """
    voxel = 2.0 / field.num_voxels
    inwards = torch.arange(SKIN_ABOVE, SKIN_BELOW, -SKIN_STEP) * voxel
    vertices, normals = torch.from_numpy(mesh.vertices), torch.from_numpy(find_normals(mesh))
    where = (vertices[:, None] + inwards[:, None] * normals[:, None])[None, :, :, None]
    density = F.grid_sample(field.density, where, padding_mode="border", align_corners=False)[0, 0, ..., 0]
    colours = F.grid_sample(field.colour, where, padding_mode="border", align_corners=False)[0, ..., 0]
    thickness = F.softplus(density + _BIAS) * SKIN_STEP
    weights = torch.exp(thickness - torch.cumsum(thickness, 1)) * (1 - torch.exp(-thickness))
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-8)
    return (torch.sigmoid(colours) * weights).sum(2).T.numpy().copy()


def choose_level(field: Field, pictures: torch.Tensor, angles: Sequence[Angle]) -> float:
    """Return the opacity whose surface looks most like the views that the field was fitted to.

    Shapes:  pictures (v, 3, H, H) on white in 0..1, one per angle.
    Differs: judged by colours, not by outlines alone: a skin that lies too far out keeps the outline and smears what
             is painted on it.
    """
    wanted = pictures.permute(0, 2, 3, 1).numpy()
    peak = float(ndimage.gaussian_filter(_find_alpha(field), BLUR_VOXELS).max())
    levels = [level for level in SURFACE_ALPHAS if level < peak] or [SURFACE_ALPHAS[0]]
    errors = []
    for level in levels:
        drawn, _ = draw_mesh(to_mesh(field, level=level), angles, wanted.shape[1])
        errors.append(float(((drawn - wanted) ** 2).mean()))
    return levels[int(np.argmin(errors))]


def _find_alpha(field: Field) -> np.ndarray:
    """Return the opacity of every voxel, (n, n, n)."""
    return (-torch.expm1(-F.softplus(field.density[0, 0] + _BIAS))).numpy()


def find_inside(alpha: np.ndarray) -> np.ndarray:
    """Tell which voxels are hidden from all six sides: less than half of the light gets there along any axis."""
    thickness = -np.log1p(-np.clip(alpha, 0, 0.999))
    hidden = np.ones(alpha.shape, bool)
    for axis in range(3):
        for layers in (thickness, np.flip(thickness, axis)):
            passed = np.cumsum(layers, axis) - layers
            hidden &= (passed if layers is thickness else np.flip(passed, axis)) > HIDDEN
    return hidden


def keep_largest(solid: np.ndarray, level: float) -> np.ndarray:
    """Set everything above a level to zero that is not one of the large connected parts; returns a new volume."""
    labels, count = ndimage.label(solid > level)
    if count == 0:
        raise ValueError("the field is empty")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    small = (sizes < 0.03 * sizes.max())[labels] & (labels > 0)
    return np.where(ndimage.binary_dilation(small, iterations=2) & ~(sizes >= 0.03 * sizes.max())[labels], 0, solid)
