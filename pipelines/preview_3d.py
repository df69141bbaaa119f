"""3D preview: a picture of one object becomes a model that can be turned.

Inflate blows up its outline; Views draws it from eight sides and fits a radiance field; Polish lets the network that
drew the views improve the field; Parallax sways layers of the picture. Closing the stream stops the run at the next
step, and what was best until then can be kept.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image

from pipelines.cutout import Cutout, cut_out, frame_object
from pipelines.distillation import PolishSettings, polish_field
from pipelines.errors import UserError
from pipelines.field_fit import FieldSettings, fit_field
from pipelines.images import to_images
from pipelines.inflate import inflate
from pipelines.mesh import Mesh, draw_mesh
from pipelines.networks import NetworkProvider
from pipelines.painted_front import paint_seen
from pipelines.parallax import make_layers, sway_camera
from pipelines.params import validate
from pipelines.preview_records import Preview3dProgress, Preview3dRequest, Preview3dResult
from pipelines.radiance_field import SURFACE_ALPHA, Field, choose_level, draw_field, make_field, to_mesh
from pipelines.turntable import VIEW_PX
from pipelines.turntable_camera import FRONT, ZIGZAG, Angle
from pipelines.types import Measure, Progress
from pipelines.uploads import to_plain

PICTURE_PX = 256
SHAPE_PX = 128
TURNTABLE_PX = 192
NUM_FRAMES = 24
TURNTABLE_DEG = 15.0
# The fit shows itself this often, from a camera that goes round meanwhile.
SHOW_EVERY = 10
FIT_TURN_DEG = 12.0

Stream = Generator[Progress, None, Preview3dResult]


@dataclass(eq=False)
class _Run:
    """Hold an object on its way.

    Shapes: rgb (PICTURE_PX, PICTURE_PX, 3) and mask (PICTURE_PX, PICTURE_PX) of the framed picture, 0..1; views
            (NUM_VIEWS, CHANNELS, VIEW_PX, VIEW_PX) in -1..1, as far as they are drawn.
    """

    request: Preview3dRequest
    cutout: Cutout
    rgb: np.ndarray
    mask: np.ndarray
    start: float
    num_steps: int
    step: int = 0
    first_shape_s: float = 0.0
    mesh: Mesh | None = None
    level: float = SURFACE_ALPHA
    views: torch.Tensor | None = None
    view_pictures: tuple[Image.Image, ...] = ()
    notes: list[str] = field(default_factory=list)

    def report(self, note: str, preview: Image.Image | None, *, mesh: Mesh | None = None) -> Preview3dProgress:
        """Report one more finished step."""
        self.step += 1
        passed = time.perf_counter() - self.start
        left_s = passed / self.step * (self.num_steps - self.step)
        # Nothing is computed for a stop that does not come.
        keep = partial(_conclude, self)
        return Preview3dProgress(self.step, self.num_steps, note, preview, left_s, mesh, self.view_pictures, keep)


@torch.no_grad()
def preview_3d_stream(
    request: Preview3dRequest, models: NetworkProvider
) -> Generator[Progress | Preview3dResult, None, None]:
    """Turn a picture of one object into a model.

    Returns: a generator of Progress whose last item is one Preview3dResult. The first shape comes first and closed,
             then the drawn views, then the model as it is fitted.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable without weights.
    """
    request = validate(request)
    if request.picture is None:
        raise UserError("There is no picture yet; upload one, choose an example, or send one from another tab.")
    start = time.perf_counter()
    cutout = cut_out(to_plain(request.picture), painted=request.painted)
    if request.method == "parallax":
        yield from _sway(request, cutout, start)
        return
    rgb, mask = frame_object(cutout, PICTURE_PX)
    num_steps = (
        1
        + {
            "inflate": 0,
            "views": request.view_steps + request.fit_steps // SHOW_EVERY + 1,
            "polish": request.view_steps + request.fit_steps // SHOW_EVERY + 1 + request.polish_rounds,
        }[request.method]
    )
    run = _Run(request, cutout, rgb, mask, start, num_steps, notes=list(cutout.notes))
    yield _show_first_shape(run)
    if request.method != "inflate":
        yield from _model(run, models)
    yield _conclude(run)


def _show_first_shape(run: _Run) -> Progress:
    """Blow up the outline: a closed body at once."""
    run.mesh = inflate(*_shrink(run, SHAPE_PX))
    run.first_shape_s = time.perf_counter() - run.start
    drawn, _ = draw_mesh(run.mesh, [(30.0, TURNTABLE_DEG)], TURNTABLE_PX)
    return run.report("first shape", _to_picture(drawn[0]), mesh=run.mesh)


def _shrink(run: _Run, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Bring picture and mask to a size that divides their own."""
    factor = PICTURE_PX // size_px
    rgb, mask = (
        layer.reshape(size_px, factor, size_px, factor, -1).mean((1, 3)) for layer in (run.rgb, run.mask[..., None])
    )
    return rgb, mask[..., 0]


def _model(run: _Run, models: NetworkProvider) -> Generator[Progress, None, None]:
    """Draw the views, fit a field to them, and let the teacher polish it if asked."""
    request, network = run.request, models.networks().turntable
    assert run.mesh is not None
    guess = _join(*draw_mesh(run.mesh, ZIGZAG, VIEW_PX))
    picture = _join(*(layer[None] for layer in _shrink(run, VIEW_PX)))[0]
    for run.views in network.turn(guess, picture, seed=request.seed, num_steps=request.view_steps):
        yield run.report("drawing eight views", _lay_out(run.views))
    assert run.views is not None
    run.view_pictures = tuple(to_images(run.views[:, :3]))
    everything = (torch.cat([run.views, picture[None]]) + 1) / 2
    angles: tuple[Angle, ...] = (*ZIGZAG, FRONT)
    settings = FieldSettings(num_steps=request.fit_steps, seed=request.seed)
    fitted = hull = make_field(everything[:, 3], angles, settings.num_voxels, pictures=everything[:, :3])
    shown = 0
    for step, fitted in enumerate(fit_field(hull, everything[:, :3], everything[:, 3], angles, settings), 1):
        if step % SHOW_EVERY == 0:
            shown += 1
            # The model itself is renewed more rarely: meshing costs as much as several steps.
            mesh = _take_mesh(run, fitted) if shown % 5 == 0 else None
            yield run.report(f"fitting, step {step} of {request.fit_steps}", _look(fitted, shown), mesh=mesh)
    run.level = choose_level(fitted, everything[:-1, :3], ZIGZAG)
    mesh = _take_mesh(run, fitted)
    yield run.report("model taken from the fit", _look(fitted, shown), mesh=mesh)
    if request.method == "polish":
        polish = PolishSettings(num_rounds=request.polish_rounds, curriculum=request.curriculum, seed=request.seed)
        for index, polished in enumerate(polish_field(fitted, network, guess, picture, polish), 1):
            if index == request.polish_rounds:
                # Polishing makes the voxels denser, so that the surface of the fit would lie too far out.
                run.level = choose_level(polished, everything[:-1, :3], ZIGZAG)
            mesh = _take_mesh(run, polished) if index % 4 == 0 or index == request.polish_rounds else None
            yield run.report(f"polishing, round {index}", _look(polished, shown + index), mesh=mesh)


def _take_mesh(run: _Run, fitted: Field) -> Mesh:
    """Take the surface out of a field and put the picture on its front; it is the best so far."""
    run.mesh = paint_seen(to_mesh(fitted, level=run.level), run.rgb, run.mask)
    return run.mesh


def _look(fitted: Field, index: int) -> Image.Image:
    """Draw a field from a camera that goes round."""
    rgb, _ = draw_field(fitted, [(index * FIT_TURN_DEG, TURNTABLE_DEG)], VIEW_PX)
    return to_images(rgb * 2 - 1)[0].resize((TURNTABLE_PX, TURNTABLE_PX), Image.Resampling.BICUBIC)


def _join(rgb: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    """Turn pictures (v, H, H, 3) and masks (v, H, H) in 0..1 into (v, CHANNELS, H, H) in -1..1."""
    return torch.from_numpy(np.concatenate([rgb, mask[..., None]], -1).astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1


def _lay_out(views: torch.Tensor) -> Image.Image:
    """Lay eight views out in two rows."""
    rows = [torch.cat(list(views[first : first + 4, :3]), 2) for first in (0, 4)]
    return to_images(torch.cat(rows, 1)[None])[0]


def _to_picture(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8))


def _conclude(run: _Run) -> Preview3dResult:
    """Make a result of what there is, finished or not."""
    assert run.mesh is not None
    turns: list[Angle] = [(360.0 * index / NUM_FRAMES, TURNTABLE_DEG) for index in range(NUM_FRAMES)]
    frames = draw_mesh(run.mesh, turns, TURNTABLE_PX)[0]
    views = () if run.views is None else tuple(to_images(run.views[:, :3]))
    return Preview3dResult(
        cutout=_to_picture(run.rgb * run.mask[..., None] + 1 - run.mask[..., None]),
        mesh=run.mesh,
        views=views,
        turntable=tuple(_to_picture(frame) for frame in frames),
        measures=tuple(measure_front(run.mesh, run.rgb, run.mask)),
        seed_used=run.request.seed,
        first_shape_s=run.first_shape_s,
        seconds=time.perf_counter() - run.start,
        notes=tuple(run.notes),
        request=run.request,
    )


def measure_front(mesh: Mesh, rgb: np.ndarray, mask: np.ndarray) -> Generator[Measure, None, None]:
    """Measure how well the model agrees with the picture that it was made of, seen from the same side."""
    (drawn,), (cover,) = draw_mesh(mesh, [FRONT], len(rgb))
    overlap = float(np.minimum(cover, mask).sum() / np.maximum(cover, mask).sum())
    error_db = float(-10 * np.log10(max(float(((drawn - rgb) ** 2).mean()), 1e-10)))
    yield Measure("front_iou", "outline kept", overlap, overlap)
    yield Measure("front_db", "front agrees", error_db, error_db, "dB")


def _sway(request: Preview3dRequest, cutout: Cutout, start: float) -> Generator[Progress | Preview3dResult, None, None]:
    """Sway layers of the whole picture; no object is modelled."""
    layers = make_layers(cutout.rgb, cutout.mask)
    yield Preview3dProgress(1, 2, "layers cut", _to_picture(layers.rgb[0]))
    frames = tuple(_to_picture(frame) for frame in sway_camera(layers))
    seconds = time.perf_counter() - start
    rgb, mask = frame_object(cutout, PICTURE_PX)
    yield Preview3dResult(
        cutout=_to_picture(rgb * mask[..., None] + 1 - mask[..., None]),
        mesh=None,
        views=(),
        turntable=frames,
        measures=(),
        seed_used=request.seed,
        first_shape_s=seconds,
        seconds=seconds,
        notes=(*cutout.notes, "Depth is guessed from the outline and the height in the picture; the camera sways."),
        request=request,
    )
