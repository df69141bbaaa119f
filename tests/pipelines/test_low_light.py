"""Low light as a whole: every kind of picture, every method, bursts, Stop, and one sentence for what cannot be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import LowLightProgress, LowLightRequest, LowLightResult, Progress, UserError
from pipelines.errors import BackendUnavailable
from pipelines.low_light import add_colour, darken_photo, low_light_stream, to_pixels
from pipelines.low_light_types import WAYS_OF_LIGHTING, DarkenRequest
from pipelines.model import ModelBundle
from pipelines.networks import Networks
from tests.pictures import make_ramp
from tests.tiny_models import save_tiny_networks


class Provider:
    """Hand out networks of few channels with random weights, and a tiny storybook."""

    def __init__(self, folder: Path, bundle: ModelBundle) -> None:
        self._networks, self._bundle = Networks(folder), bundle

    def networks(self) -> Networks:
        return self._networks

    def get(self, name: str) -> ModelBundle:
        return self._bundle


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_storybook: ModelBundle) -> Provider:
    """All networks, tiny."""
    return Provider(save_tiny_networks(tmp_path_factory.mktemp("networks")), tiny_storybook)


def make_dark(width_px: int = 40, height_px: int = 30, mode: str = "RGB", *, light: float = 0.2) -> Image.Image:
    """Make a picture that a fifth of the levels are used of."""
    dark = make_ramp(width_px, height_px).point(lambda level: int(level * light))
    return dark.convert(mode)


def run(models: Provider, picture: Image.Image | None = None, **fields: object) -> LowLightResult:
    """Run to the end."""
    items = list(low_light_stream(LowLightRequest(picture, **fields), models))  # type: ignore[arg-type]
    assert all(isinstance(item, Progress) for item in items[:-1])
    assert isinstance(items[-1], LowLightResult)
    return items[-1]


@pytest.mark.parametrize("method", WAYS_OF_LIGHTING)
def test_every_method_lights_and_says_what_it_did(models: Provider, method: str) -> None:
    result = run(models, make_dark(), method=method)
    assert result.is_dark and result.image.size == (40, 30) and len(result.arms) == 1
    names = [measure.name for measure in result.arms[0].measures]
    assert names == ["noise_levels", "brightness", "explained_share"]
    noise, brightness, share = result.arms[0].measures
    lit, baseline = (
        np.asarray(picture, dtype=float).mean() / 255 for picture in (result.image, result.arms[0].baseline)
    )
    # The baseline is as bright as the result: that is what makes their noise comparable.
    assert lit == pytest.approx(baseline, abs=0.03) and brightness.on == pytest.approx(lit, abs=0.01)
    assert share.off == 1 and 0 <= share.on <= 1 and noise.on >= 0
    assert sum(result.histogram) == pytest.approx(1) == pytest.approx(sum(result.arms[0].histogram))


def test_lime_reaches_the_brightness_and_says_when_it_cannot(models: Provider) -> None:
    assert run(models, make_dark(), method="lime", brightness=0.35).arms[0].measures[1].on == pytest.approx(
        0.35, abs=0.02
    )
    assert "this method reaches" in run(models, make_dark(), method="lime", brightness=0.8).notes[-1]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "1"])
def test_a_picture_keeps_its_mode(models: Provider, mode: str) -> None:
    picture = make_dark().convert(mode)
    result = run(models, picture, method="lime", force=True)
    assert result.image.mode == (mode if mode in ("L", "LA", "RGB", "RGBA") else "L" if mode == "1" else "RGB")


def test_transparency_stays(models: Provider) -> None:
    picture = make_dark().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    result = run(models, picture, method="lime")
    assert result.image.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


@pytest.mark.parametrize("method", WAYS_OF_LIGHTING)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 300)])
def test_a_picture_of_any_shape_is_lit(models: Provider, method: str, size: tuple[int, int]) -> None:
    assert run(models, Image.new("RGB", size, (20, 12, 9)), method=method).image.size == size


def test_sixteen_bits_are_all_used(models: Provider) -> None:
    levels = np.linspace(0, 900, 64 * 64).reshape(64, 64).astype(np.uint16)  # four levels of 8 bits
    result = run(models, Image.fromarray(levels), method="lime", brightness=0.4)
    assert len(np.unique(np.asarray(result.image))) > 60 and result.image.mode == "L"
    assert len(np.unique(np.asarray(result.original))) <= 5


def test_a_picture_that_is_not_dark_comes_back_unchanged(models: Provider) -> None:
    for picture in (make_ramp(40, 30), Image.new("RGB", (9, 9), "white"), make_ramp(8).convert("L")):
        result = run(models, picture)
        assert not result.is_dark and result.image.tobytes() == picture.tobytes()
        assert "is not dark" in result.notes[0] and "unchanged" in result.notes[0]
    forced = run(models, make_ramp(40, 30), method="lime", force=True, brightness=0.7)
    assert forced.is_dark and forced.image.tobytes() != make_ramp(40, 30).tobytes()


def test_all_methods_side_by_side_each_as_alone(models: Provider) -> None:
    result = run(models, make_dark(), method="curve", compare=True, seed=3)
    assert sorted(arm.method for arm in result.arms) == sorted(WAYS_OF_LIGHTING) and result.arms[-1].method == "curve"
    for arm in result.arms:
        alone = run(models, make_dark(), method=arm.method, seed=3)
        assert alone.image.tobytes() == arm.image.tobytes(), arm.method


def test_the_seed_decides_what_is_invented_and_nothing_else(models: Provider) -> None:
    for detail_frac in (0.0, 1.0):
        fields = {"method": "diffusion", "detail_frac": detail_frac}
        pictures = [run(models, make_dark(), seed=seed, **fields).image.tobytes() for seed in (1, 1, 2)]
        assert pictures[0] == pictures[1] and (pictures[0] == pictures[2]) is (detail_frac == 0)


def test_a_first_view_is_there_before_any_tile_and_a_stop_keeps_it(models: Provider) -> None:
    for method in ("diffusion", "retinex"):
        stream = low_light_stream(LowLightRequest(make_dark(300, 200), method=method), models)
        first = next(stream)
        assert isinstance(first, LowLightProgress) and first.step == 0 and "first view" in first.note
        assert first.preview is not None and first.keep is not None
        next(stream)
        stream.close()
        kept = first.keep()
        assert kept.image.size == (300, 200) and kept.request.method == method


def test_no_noise_removal_keeps_the_grain(models: Provider) -> None:
    noisy = np.random.default_rng(0).integers(0, 60, (40, 40, 3)).astype(np.uint8)
    kept, removed = (
        run(models, Image.fromarray(noisy), method="lime", noise_frac=share).arms[0].measures[0].on
        for share in (0.0, 1.0)
    )
    assert removed < 0.8 * kept


def test_colour_is_taken_away_and_made_stronger(models: Provider) -> None:
    picture = to_pixels(make_ramp(8))
    assert torch.equal(add_colour(picture, 1.0), picture)
    grey = add_colour(picture, 0.0)
    assert torch.allclose(grey[0], grey[2]) and torch.allclose(grey.mean(0), picture.mean(0), atol=1e-6)
    spread = [add_colour(picture, strength).std(0).mean() for strength in (0.5, 1.0, 1.5)]
    assert spread[0] < spread[1] < spread[2]
    assert run(models, make_dark(), method="lime", colour=0.0).image.convert("RGB").getpixel((5, 5))[
        0
    ] == pytest.approx(run(models, make_dark(), method="lime", colour=0.0).image.getpixel((5, 5))[2], abs=1)


def test_a_burst_is_merged_first_and_has_less_noise(models: Provider) -> None:
    scene = make_ramp(96, 80)
    scene.paste("white", (20, 20, 50, 40))
    shots = tuple(darken_photo(scene, DarkenRequest(0.1, grain=0.6, seed=seed)) for seed in range(6))
    one = run(models, shots[0], method="lime", noise_frac=0.0, truth=scene)
    many = run(models, burst=shots, method="lime", noise_frac=0.0, truth=scene)
    assert "6 pictures were merged" in many.notes[0] and many.original.tobytes() == shots[0].tobytes()
    noise = [result.arms[0].measures[1].on for result in (one, many)]
    assert noise[1] < 0.65 * noise[0]
    assert many.arms[0].measures[0].name == "truth_db" and many.arms[0].measures[0].on > one.arms[0].measures[0].on


@pytest.mark.parametrize(
    ("picture", "fields", "sentence"),
    [
        (None, {}, "There is no picture yet"),
        (Image.new("RGB", (9, 9)), {}, "black everywhere, so that there is nothing to bring to light"),
        (make_dark(), {"brightness": 0.9}, "Brightness 0.9 is too high; choose 0.02 to 0.8"),
        (make_dark(), {"method": "magic"}, "Method 'magic' is not known"),
        (make_dark(), {"truth": make_ramp(9)}, "has another size"),
        (None, {"burst": (make_dark(), make_dark(30))}, "Picture 2 has 30 x 30 px and the first one 40 x 30"),
        (None, {"burst": (make_dark(),) * 17}, "These are 17 pictures; choose at most 16"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    models: Provider, picture: Image.Image | None, fields: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(models, picture, **fields)
    assert "\n" not in str(caught.value)


def test_pictures_of_other_scenes_are_refused(models: Provider) -> None:
    rng = np.random.default_rng(1)
    blocks = [Image.fromarray(rng.integers(0, 50, (18, 24, 3)).astype(np.uint8)).resize((96, 72)) for _ in range(2)]
    with pytest.raises(UserError, match="Picture 2 does not show the scene of the first one"):
        run(models, burst=tuple(blocks))


def test_missing_weights_are_one_sentence(tmp_path: Path, tiny_storybook: ModelBundle) -> None:
    with pytest.raises(BackendUnavailable, match="train-curve-net"):
        run(Provider(tmp_path, tiny_storybook), make_dark())
    assert run(Provider(tmp_path, tiny_storybook), make_dark(), method="lime").is_dark


def test_a_picture_is_darkened_as_by_a_camera() -> None:
    picture = make_ramp(64).convert("RGBA")
    dark = darken_photo(picture, DarkenRequest(0.1, seed=4))
    assert dark.mode == "RGBA" and np.asarray(dark.convert("L")).mean() < 0.6 * np.asarray(picture.convert("L")).mean()
    assert dark.tobytes() == darken_photo(picture, DarkenRequest(0.1, seed=4)).tobytes()
    assert dark.tobytes() != darken_photo(picture, DarkenRequest(0.1, seed=5)).tobytes()
    assert darken_photo(picture, DarkenRequest(0.1, lamps=3)).tobytes() != dark.tobytes()
    with pytest.raises(UserError, match="Light that is left 2 is too high"):
        darken_photo(picture, DarkenRequest(2.0))
