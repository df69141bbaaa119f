"""Solid objects of the drawn world: which one, in which colours, and how far every point is from its surface.

A record fully determines a body, as a scene record does a picture; the hold-out rule is that of `scene.py`. A body's
frame is that of its front view (`pipelines/turntable_camera.py`): there its longer side takes FRONT_FRAC of the
picture, its middle is the picture's middle, and its depth is centred too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from training.world.render import tone_rgb
from training.world.scene import (
    COLOURS,
    FIRST_HELD_OUT_SEED,
    KINDS,
    Identity,
    is_held_out_pair,
    sample_identity,
)
from training.world.solid_kinds import SOLID_PIECES
from training.world.solid_shapes import Array, Piece
from training.world.styles import shift_palette

MAX_TURN_DEG = 25.0
# Things that a picture usually shows exactly from the side or the front; others are turned a little.
_FLAT_KINDS = ("butterfly", "moon", "star", "heart")


@dataclass(frozen=True)
class Solid:
    """One object, what only its record knows included.

    Units: turn_deg turns it around the vertical axis, positive to its left as the viewer sees it; palette_shift -1..1
           as in `Look`.
    """

    kind: str
    colour: str
    identity: Identity = Identity()
    turn_deg: float = 0.0
    palette_shift: float = 0.0
    seed: int = 0


def sample_solid(seed: int, *, split: str = "train") -> Solid:
    """Draw one record from a seed.

    Returns: for split "train" a solid that the hold-out rule allows; for split "all" any solid of the world.
    Raises:  ValueError for an unknown split, or for a held-out seed in split "train".
    """
    if split not in ("train", "all"):
        raise ValueError(f"split must be 'train' or 'all', got {split!r}")
    if split == "train" and not 0 <= seed < FIRST_HELD_OUT_SEED:
        raise ValueError(f"seed {seed} is held out; training seeds are 0 to {FIRST_HELD_OUT_SEED - 1}")
    rng = np.random.default_rng([seed, 3])
    while True:
        kind, colour = str(rng.choice(KINDS)), str(rng.choice(COLOURS))
        if split == "all" or not is_held_out_pair(kind, colour):
            break
    turn_deg = 0.0 if kind in _FLAT_KINDS else float(np.clip(rng.normal(0, 12), -MAX_TURN_DEG, MAX_TURN_DEG))
    return Solid(kind, colour, sample_identity(rng), turn_deg, float(rng.uniform(-1, 1)), seed)


@dataclass(frozen=True, eq=False)
class Body:
    """A solid ready to be looked at.

    Shapes: colours (tones, 3) float32 in 0..1, one row per piece and a last one for markings.
    Units:  a point p of the picture's world is `p * stretch + centre` in the solid's own units.
    """

    pieces: tuple[Piece, ...]
    colours: np.ndarray
    marking: Identity
    turn_deg: float = 0.0
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stretch: float = 1.0

    def _to_own(self, points: Iterable[Array]) -> tuple[Array, Array, Array]:
        x, y, z = (p * np.float32(self.stretch) + np.float32(c) for p, c in zip(points, self.centre))
        cosine, sine = np.float32(np.cos(np.deg2rad(self.turn_deg))), np.float32(np.sin(np.deg2rad(self.turn_deg)))
        return x * cosine - z * sine, y, x * sine + z * cosine

    def measure(self, points: Iterable[Array]) -> Array:
        """Return the signed distance of points (x, y, z), each (n,), to the surface, in world units."""
        own = self._to_own(points)
        nearest = self.pieces[0].shape(*own)
        for piece in self.pieces[1:]:
            nearest = np.minimum(nearest, piece.shape(*own))
        return nearest / np.float32(self.stretch)

    def choose_colours(self, points: Iterable[Array]) -> Array:
        """Return the unlit colour (n, 3) in 0..1 of points on the surface."""
        own = self._to_own(points)
        owner = np.argmin(np.stack([piece.shape(*own) for piece in self.pieces]), 0)
        if self.marking.marking != "none":
            marked = max(index for index, piece in enumerate(self.pieces) if piece.tone == "main")
            owner = np.where((owner == marked) & _is_marked(self.marking, *own), len(self.pieces), owner)
        return self.colours[owner]


def _is_marked(who: Identity, x: Array, y: Array, z: Array) -> Array:
    """Tell which points of the main piece carry the marking: stripes and bands go around, a patch is in front."""
    place = who.marking_frac - 0.5
    if who.marking == "stripes":
        return np.abs((x - 0.2 * place + 0.62 + 0.07) % 0.42 - 0.14) < 0.075
    if who.marking == "dots":
        lattice = [(p - 0.3 * place * (axis == 0)) % 0.46 - 0.23 for axis, p in enumerate((x, y, z))]
        return lattice[0] ** 2 + lattice[1] ** 2 + lattice[2] ** 2 < 0.15**2
    if who.marking == "patch":
        return (((x - 0.7 * place) / 0.36) ** 2 + ((y + 0.2 - 0.4 * place) / 0.3) ** 2 < 1) & (z > 0)
    return np.abs(y - 0.01 + 0.5 * place) < 0.13


def make_body(solid: Solid) -> Body:
    """Build a body in the solid's own units; `solid_views.frame` brings it into the frame of its front view.

    Raises: KeyError for a class the world does not have.
    """
    pieces = tuple(SOLID_PIECES[solid.kind](solid.identity))
    tones = [piece.tone for piece in pieces] + ["mark"]
    shifted = [shift_palette(tone_rgb(tone, solid.colour), solid.palette_shift) for tone in tones]
    return Body(pieces, np.array(shifted, np.float32) / 255, solid.identity, solid.turn_deg)
