"""Records of the low-light tab that cross the seams: what to light and how, progress, and what came out.

Holds no behaviour and imports no model code, so that the page can be built before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from pipelines.backends import DEFAULT_BACKEND
from pipelines.params import choice, flag, ranged, text
from pipelines.types import Measure, Progress

WAYS_OF_LIGHTING = ("lime", "curve", "retinex", "diffusion")


@dataclass(frozen=True)
class LowLightRequest:
    """Say which dark photo to light, how bright, and how.

    Units: the picture may be of any mode and shape; burst are more pictures of the same scene, merged with it first;
           brightness is the mean of all channels as displayed, 0..1; truth is the scene in full light, where it is
           known, to measure against, and changes nothing. With noise_frac's default, Diffusion comes nearest to
           held-out drawn pictures: 0.1 to 0.2 dB nearer than with 1.
    """

    picture: Image.Image | None = None
    burst: tuple[Image.Image, ...] = ()
    method: str = choice("diffusion", WAYS_OF_LIGHTING, label="Method", help="How light is brought in.")
    brightness: float = ranged(
        0.42, 0.02, 0.8, 0.01, label="Brightness", help="Of the result: 0 is black, 1 white, most photos 0.35 to 0.5."
    )
    noise_frac: float = ranged(
        0.85, 0.0, 1.0, 0.05, label="Noise removal", help="0 keeps every grain; 1 removes what looks like noise."
    )
    detail_frac: float = ranged(
        0.0, 0.0, 1.0, 0.05, label="Invented detail", help="0 stays with what is certain; 1 draws one likely picture."
    )
    colour: float = ranged(1.0, 0.0, 2.0, 0.05, label="Colour", help="0 is grey, 1 as found, 2 twice as strong.")
    num_passes: int = ranged(
        3, 1, 5, 1, label="Passes at most", help="Diffusion lights again until the brightness is reached."
    )
    force: bool = flag(False, label="Light it anyway", help="Also a picture that is not dark.")
    compare: bool = flag(False, label="Compare", help="Light it by every method, same seed.")
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="Of the invented detail; without it no seed matters.")
    backend: str = text(DEFAULT_BACKEND, 100, label="Backend", help="Whose latents Latent Retinex takes apart.")
    truth: Image.Image | None = None
    # Fields that hold pictures, which no settings contain; no words belong to this tab.
    prompt: ClassVar[str] = ""


@dataclass(frozen=True)
class DarkenRequest:
    """Say how to take a picture again with less light, to try the tab on it.

    Units: light_frac 0..1 of the light that there was.
    """

    light_frac: float = ranged(
        0.1, 0.01, 1.0, 0.01, label="Light that is left", help="0.1 is a tenth of the light, a dim room."
    )
    grain: float = ranged(0.5, 0.0, 1.0, 0.05, label="Sensor noise", help="0 is none, 1 a small old sensor.")
    lamps: int = ranged(0, 0, 4, 1, label="Lamps", help="0 leaves the light as it falls; others light parts of it.")
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed gives the same noise.")


@dataclass(frozen=True)
class LightArm:
    """Hold what one method made of a picture.

    Units: baseline is the dark picture only brightened, as far as the image is; added is the map of detail that
           brightening does not explain; histogram holds shares of pixels from black to white; seconds are the method's.
    """

    method: str
    image: Image.Image
    baseline: Image.Image
    added: Image.Image
    histogram: tuple[float, ...]
    measures: tuple[Measure, ...]
    seconds: float


@dataclass(frozen=True)
class LowLightResult:
    """Hold a lit picture, and those of the other methods before it where all were asked for.

    Units: original is the picture as given, the first one of a burst, and histogram its shares of pixels in bins of
           equal width from black to white; is_dark False means that it came back unchanged.
    """

    arms: tuple[LightArm, ...]
    original: Image.Image
    histogram: tuple[float, ...]
    is_dark: bool
    seed_used: int
    seconds: float
    notes: tuple[str, ...]
    request: LowLightRequest

    @property
    def image(self) -> Image.Image:
        """Return the picture that was asked for."""
        return self.arms[-1].image

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Return the pictures of all methods."""
        return tuple(arm.image for arm in self.arms)


@dataclass(frozen=True)
class LowLightProgress(Progress):
    """Report finished tiles; `keep` makes a result of the picture so far: what a stop keeps."""

    keep: Callable[[], LowLightResult] | None = None
