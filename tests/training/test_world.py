"""The drawn world: same seed same picture, the hold-out rule, exact truth, and pairs that differ in one thing only."""

from dataclasses import replace

import numpy as np
import pytest

from training.world.caption import MAX_WORDS, Mention, make_caption, read_caption, split_words, vocabulary
from training.world.damage import Darkness, darken, from_linear, reduce, sample_darkness, to_linear
from training.world.render import draw_masks, draw_truth_maps, render
from training.world.scene import (
    BACKGROUNDS,
    CANVAS_PX,
    COLOURS,
    FIRST_HELD_OUT_SEED,
    KINDS,
    RELATIONS,
    STYLES,
    Scene,
    SceneObject,
    find_relation,
    is_drawable,
    is_held_out,
    is_held_out_duo,
    is_held_out_pair,
    is_held_out_style,
    move_object,
    recolour_object,
    resize_object,
    restyle,
    sample_scene,
)

REACH_PX = 26  # glow, cast shadow and wobble end this far outside an object's box


def two_things(style: str = "flat") -> Scene:
    """A boat on the left and a moon on the right, far apart."""
    boat = SceneObject("boat", "red", 66.0, 128.0, 84.0)
    moon = SceneObject("moon", "white", 190.0, 128.0, 84.0)
    return Scene((boat, moon), "meadow", "day", style, seed=5)


def far_from(boxes_px: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Mark the pixels that are more than REACH_PX away from every box."""
    far = np.ones((CANVAS_PX, CANVAS_PX), bool)
    for x0, y0, x1, y1 in boxes_px:
        far[max(0, y0 - REACH_PX) : y1 + REACH_PX, max(0, x0 - REACH_PX) : x1 + REACH_PX] = False
    return far


@pytest.mark.parametrize("seed", [0, 7, 123_456, FIRST_HELD_OUT_SEED + 3])
def test_a_seed_always_gives_the_same_scene_and_the_same_pixels(seed: int) -> None:
    first, second = sample_scene(seed, split="all"), sample_scene(seed, split="all")
    assert first == second
    assert np.array_equal(render(first).rgb, render(second).rgb)
    assert not np.array_equal(render(first).rgb, render(sample_scene(seed + 1, split="all")).rgb)


def test_training_scenes_keep_the_hold_out_rule() -> None:
    scenes = [sample_scene(seed) for seed in range(600)]
    assert not any(is_held_out(scene) for scene in scenes)
    for scene in scenes:
        kinds = [thing.kind for thing in scene.objects]
        assert not any(is_held_out_pair(thing.kind, thing.colour) for thing in scene.objects)
        assert not any(is_held_out_style(kind, scene.style) for kind in kinds)
        assert not any(is_held_out_duo(a, b) for a in kinds for b in kinds)


def test_the_hold_out_rule_holds_back_what_it_says() -> None:
    pairs = [(kind, colour) for kind in KINDS for colour in COLOURS if is_held_out_pair(kind, colour)]
    assert [kind for kind, _ in pairs] == list(KINDS)
    assert len([1 for kind in KINDS for style in STYLES if is_held_out_style(kind, style)]) == len(STYLES)
    assert any(is_held_out(sample_scene(seed, split="all")) for seed in range(20))


@pytest.mark.parametrize("seed", [FIRST_HELD_OUT_SEED, -1])
def test_training_refuses_a_held_out_seed(seed: int) -> None:
    with pytest.raises(ValueError, match="held out"):
        sample_scene(seed)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split"):
        sample_scene(1, split="validation")


def test_every_kind_colour_style_and_background_occurs() -> None:
    scenes = [sample_scene(seed) for seed in range(500)]
    things = [thing for scene in scenes for thing in scene.objects]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}


def test_black_is_never_drawn_in_light() -> None:
    neon = [scene for scene in (sample_scene(seed) for seed in range(400)) if scene.style == "neon"]
    assert neon and all(is_drawable(thing.colour, scene.style) for scene in neon for thing in scene.objects)
    with pytest.raises(ValueError, match="black"):
        recolour_object(two_things("neon"), 0, "black")


@pytest.mark.parametrize("seed", range(24))
def test_boxes_hold_the_masks(seed: int) -> None:
    scene = sample_scene(seed, split="all")
    for thing, mask, (x0, y0, x1, y1) in zip(scene.objects, draw_masks(scene), render(scene).boxes_px, strict=True):
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        assert x0 - 1 <= columns[0] and columns[-1] <= x1 and y0 - 1 <= rows[0] and rows[-1] <= y1
        filled = (columns[-1] - columns[0] + 1) * (rows[-1] - rows[0] + 1) / ((x1 - x0) * (y1 - y0))
        assert filled > 0.45, (thing.kind, filled)  # strings, handles and whiskers are in the box, not in the mask
        assert max(x1 - x0, y1 - y0) < 1.25 * thing.size_px


@pytest.mark.parametrize("seed", range(8))
def test_truth_maps_agree_with_the_masks(seed: int) -> None:
    scene = sample_scene(seed)
    kinds, colours = draw_truth_maps(scene, CANVAS_PX)
    masks = draw_masks(scene)
    assert np.array_equal(kinds > 0, masks.any(0)) and np.array_equal(colours > 0, masks.any(0))
    for thing, mask in zip(scene.objects, masks, strict=True):
        assert set(kinds[mask]) == {1 + KINDS.index(thing.kind)}
        assert set(colours[mask]) == {1 + COLOURS.index(thing.colour)}


@pytest.mark.parametrize("style", STYLES)
def test_a_recoloured_scene_changes_that_object_only(style: str) -> None:
    before = two_things(style)
    after = recolour_object(before, 0, "green")
    old, new = render(before), render(after)
    changed = (old.rgb != new.rgb).any(-1)
    assert changed.any() and not changed[far_from([old.boxes_px[0]])].any()
    assert old.boxes_px == new.boxes_px and after.objects[1] == before.objects[1] and after.look == before.look


@pytest.mark.parametrize("style", STYLES)
def test_a_moved_object_leaves_the_rest_alone(style: str) -> None:
    before = two_things(style)
    after = move_object(before, 0, 0.0, -30.0)
    old, new = render(before), render(after)
    changed = (old.rgb != new.rgb).any(-1)
    assert changed.any() and not changed[far_from([old.boxes_px[0], new.boxes_px[0]])].any()
    assert new.boxes_px[0][1] == pytest.approx(old.boxes_px[0][1] - 30, abs=1)
    assert replace(after.objects[0], y_px=before.objects[0].y_px) == before.objects[0]


def test_a_resized_object_keeps_its_place() -> None:
    before = two_things()
    after = resize_object(before, 1, 1.25)
    (x0, _, x1, _), (u0, _, u1, _) = render(before).boxes_px[1], render(after).boxes_px[1]
    assert u1 - u0 == pytest.approx(1.25 * (x1 - x0), abs=2) and after.objects[0] == before.objects[0]


def test_a_restyled_scene_keeps_its_truth() -> None:
    before = two_things()
    for style in STYLES:
        after = restyle(before, style)
        assert after.objects == before.objects and after.look == before.look
        assert np.array_equal(draw_truth_maps(before, 64), draw_truth_maps(after, 64))
        assert style == before.style or not np.array_equal(render(before).rgb, render(after).rgb)
    with pytest.raises(ValueError, match="mosaic"):
        restyle(before, "mosaic")


def test_relations_name_the_longer_axis() -> None:
    middle = SceneObject("cat", "red", 128.0, 128.0, 60.0)
    places = {"left of": (60, 140), "right of": (200, 100), "above": (120, 50), "below": (140, 210)}
    for relation, (x, y) in places.items():
        assert find_relation(replace(middle, x_px=float(x), y_px=float(y)), middle) == relation
    assert set(places) == set(RELATIONS)


def test_captions_use_the_vocabulary_and_tell_the_truth() -> None:
    words, rng = set(vocabulary()), np.random.default_rng(0)
    for seed in range(150):
        scene = sample_scene(seed)
        caption = make_caption(scene, rng)
        said = split_words(caption)
        assert set(said) <= words and len(said) <= MAX_WORDS and caption == caption.lower()
        named = {word for word in split_words(caption.replace("green hills", "hills")) if word in COLOURS}
        assert named <= {thing.colour for thing in scene.objects}, caption


def test_captions_are_read_back_as_what_they_say() -> None:
    assert read_caption("a crimson kitten to the left of 3 gray crescents, green hills") == (
        (Mention("cat", "red", 1), Mention("moon", "grey", 3)),
        "left of",
    )
    assert read_caption("a boat beside a moon, in the night sky") == (
        (Mention("boat", None, 1), Mention("moon", None, 1)),
        None,
    )
    assert read_caption("a dragon over a lake") == ((), None)


def test_reading_a_caption_agrees_with_its_scene() -> None:
    rng, relations_read = np.random.default_rng(0), set()
    for seed in range(300):
        scene = sample_scene(seed)
        mentions, relation = read_caption(make_caption(scene, rng))
        assert sum(mention.count for mention in mentions) == len(scene.objects)
        things = [next(thing for thing in scene.objects if thing.kind == mention.kind) for mention in mentions]
        for mention, thing in zip(mentions, things, strict=True):
            assert mention.colour in (None, thing.colour)
        if relation is not None:
            assert find_relation(*things) == relation
            relations_read.add(relation)
    assert relations_read == set(RELATIONS)


def test_without_a_relation_things_are_named_in_reading_order() -> None:
    rng, num_seen = np.random.default_rng(0), 0
    for seed in range(400):
        scene = sample_scene(seed)
        mentions, relation = read_caption(make_caption(scene, rng))
        if relation is None and len(mentions) > 1:
            things = [next(thing for thing in scene.objects if thing.kind == mention.kind) for mention in mentions]
            if len(things) == 2:
                assert find_relation(*things) in ("left of", "above")
            elif len({thing.kind for thing in scene.objects}) == len(scene.objects):
                assert [thing.x_px for thing in things] == sorted(thing.x_px for thing in things)
            num_seen += 1
    assert num_seen > 50


def test_darkening_is_seeded_and_keeps_the_share_of_light() -> None:
    clean = render(two_things()).rgb
    darkness = Darkness(exposure=0.1)
    dark = darken(clean, darkness, seed=3)
    assert dark.dtype == np.uint8 and dark.shape == clean.shape
    assert np.array_equal(dark, darken(clean, darkness, seed=3))
    assert not np.array_equal(dark, darken(clean, darkness, seed=4))
    assert to_linear(dark).mean() == pytest.approx(0.1 * to_linear(clean).mean(), rel=0.05)


def test_fewer_electrons_mean_more_noise() -> None:
    grey = np.full((64, 64, 3), 120, np.uint8)
    spreads = [darken(grey, Darkness(0.2, electrons), seed=1).std() for electrons in (500.0, 2000.0, 8000.0)]
    assert spreads[0] > 1.5 * spreads[1] > 2 * spreads[2]


def test_sampled_darkness_is_in_range() -> None:
    drawn = [sample_darkness(np.random.default_rng(seed)) for seed in range(50)]
    assert all(0.02 <= darkness.exposure <= 0.25 for darkness in drawn) and len(set(drawn)) == 50


def test_reducing_averages_light() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, ::2] = 255
    half = round(float(from_linear(np.array(0.5))) * 255)
    assert np.array_equal(reduce(picture, 4, seed=0), np.full((2, 2, 3), half, np.uint8))
    clean = render(two_things()).rgb
    assert reduce(clean, 4, seed=0).shape == (64, 64, 3)
    assert np.array_equal(reduce(clean, 1, seed=0), clean)
    noisy = reduce(clean, 4, seed=0, noise=0.05)
    assert not np.array_equal(noisy, reduce(clean, 4, seed=1, noise=0.05))


def test_damage_refuses_what_it_cannot_do() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    for call in (
        lambda: reduce(picture, 3, seed=0),
        lambda: reduce(picture, 2, seed=0, noise=2.0),
        lambda: darken(picture, Darkness(0.0), seed=0),
        lambda: darken(picture.astype(np.float32), Darkness(0.1), seed=0),
    ):
        with pytest.raises(ValueError):
            call()
