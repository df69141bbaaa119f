"""Records of the 3D preview that cross its seams: request, progress and result.

Holds no behaviour and imports no model code, so that the page can be built before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from pipelines.params import choice, ranged
from pipelines.types import Measure, Progress

if TYPE_CHECKING:
    from pipelines.mesh import Mesh

WAYS_TO_3D = ("inflate", "views", "polish", "parallax")
CURRICULA = ("falling", "uniform")


@dataclass(frozen=True)
class Preview3dRequest:
    """Say which picture becomes an object that can be turned, and how.

    Units: picture of any mode and shape, painted a grey picture of the same shape, white where the object is, or None
           for a search; view_steps of the turntable, fit_steps of the radiance field, polish_rounds looks at the
           teacher; the last three matter only to the methods that have them.
    """

    picture: Image.Image | None = None
    painted: Image.Image | None = None
    method: str = choice(
        "views",
        WAYS_TO_3D,
        label="Method",
        help="Blow up the outline, fit a model to eight drawn views, let the teacher polish it, or sway layers.",
    )
    view_steps: int = ranged(1, 1, 8, 1, label="View steps", help="More are sharper, and less true.")
    fit_steps: int = ranged(60, 20, 400, 10, label="Fit steps", help="Of fitting the model to the views.")
    polish_rounds: int = ranged(8, 1, 30, 1, label="Polish rounds", help="How often the teacher looks at the model.")
    curriculum: str = choice(
        "falling", CURRICULA, label="Curriculum", help="From coarse to fine, or any noise level at any time."
    )
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed and settings give the same object.")


@dataclass(frozen=True, eq=False)
class Preview3dResult:
    """Hold an object that can be turned, or a picture that sways.

    Units: cutout is the object on white as it was understood; views are the drawn ones, in the order of the camera's
           zig-zag, none for methods without; turntable is one round of the finished model or of the swaying camera;
           mesh None for parallax. first_shape_s and seconds count from the start of the run.
    """

    cutout: Image.Image
    mesh: Mesh | None
    views: tuple[Image.Image, ...]
    turntable: tuple[Image.Image, ...]
    measures: tuple[Measure, ...]
    seed_used: int
    first_shape_s: float
    seconds: float
    notes: tuple[str, ...]
    request: Preview3dRequest


@dataclass(frozen=True)
class Preview3dProgress(Progress):
    """Report a stage.

    Units: mesh is a new model to show, if there is one; views are the drawn ones once they are finished; `keep` makes
           a result of what there is.
    """

    mesh: Mesh | None = None
    views: tuple[Image.Image, ...] = ()
    keep: Callable[[], Preview3dResult] | None = None
