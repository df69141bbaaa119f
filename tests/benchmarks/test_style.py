"""Style prompting's pairs and figures: what is asked for, what counts as a leak, and how arms are compared."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.geneval import find, shows
from benchmarks.studio import Arm, load_arm, save_arm
from benchmarks.style_pairs import (
    ALIGNED,
    DRAWN,
    GRAM,
    NAMED,
    READ,
    REFERENCE_SEEDS,
    TRUE,
    VISUAL,
    WORDS,
    Pair,
    compare_curves,
    compare_difference,
    compare_ratio,
    compare_shares,
    describe_arms,
    describe_point,
    find_leaks,
    make_pairs,
    summarise,
)
from benchmarks.trials import Case, Seen
from pipelines.scene_parser import ParsedObject, ParsedScene
from training.train_style_reader import MEASURED_SEED
from training.world.scene import BACKGROUNDS, FIRST_HELD_OUT_SEED, STYLES

PAIRS = make_pairs(48)


def see(*things: tuple[str, str]) -> Seen:
    """A parsed picture of these kinds and colours."""
    objects = tuple(ParsedObject(kind, colour, (0.0, 0.0, 64.0, 64.0), 0.9) for kind, colour in things)
    return Seen(ParsedScene(objects, "plain", "day", "flat"))


def asked(pair: Pair) -> tuple[str, str]:
    """Kind and colour of the prompt."""
    wanted = pair.ask.wanted[0]
    assert wanted.colour is not None
    return (wanted.kind, wanted.colour)


def shown(pair: Pair) -> tuple[str, str]:
    """Kind and colour of the reference."""
    thing = pair.reference.objects[0]
    return (thing.kind, thing.colour)


def make_arm(distance: float, right: int, leaking: int, pairs: list[Pair] = PAIRS) -> Arm:
    """An arm whose first `right` pictures show what was asked, and whose first `leaking` the reference's thing too."""
    arm = Arm([Case(pair.ask) for pair in pairs])
    for index, pair in enumerate(pairs):
        things = [asked(pair)] * (index < right) + [shown(pair)] * (index < leaking)
        arm.seen.append(see(*things))
    arm.features = np.tile(distance * np.array([[1.0, 2.0, 4.0]]), (len(pairs), 1))
    arm.features *= 1 + 0.5 * np.sin(np.arange(len(pairs)))[:, None]
    return arm


ARMS = {
    WORDS: make_arm(0.8, 48, 0),
    ALIGNED: make_arm(0.6, 36, 12),
    VISUAL: make_arm(0.4, 42, 6),
    NAMED: make_arm(0.5, 48, 0),
    DRAWN: make_arm(0.1, 48, 0),
}


def test_pairs_are_the_same_every_time_and_from_seeds_of_their_own() -> None:
    assert make_pairs(48) == PAIRS and make_pairs(5) == PAIRS[:5]
    seeds = [scene.seed for pair in PAIRS for scene in (pair.reference, pair.answer)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= REFERENCE_SEEDS > MEASURED_SEED + 10_000_000 > FIRST_HELD_OUT_SEED


def test_a_prompt_asks_for_another_thing_and_names_no_style() -> None:
    backgrounds = 0
    for index, pair in enumerate(PAIRS):
        assert len(pair.reference.objects) == 1 and pair.reference.style == STYLES[index % len(STYLES)]
        kind, colour = asked(pair)
        assert (kind != shown(pair)[0], colour != shown(pair)[1]) == (True, True)
        assert f"{colour} {kind}" in pair.ask.prompt and not any(style in pair.ask.prompt for style in STYLES)
        assert pair.named == f"{pair.ask.prompt}, {pair.reference.style}"
        backgrounds += any(name in pair.ask.prompt for name in BACKGROUNDS)
    assert 12 < backgrounds < 36
    assert len({pair.reference.look for pair in PAIRS}) == len(PAIRS)


def test_an_answer_shows_the_prompt_in_the_style_of_the_reference() -> None:
    for pair in PAIRS:
        thing = pair.answer.objects[0]
        assert shows(pair.ask, see((thing.kind, thing.colour)).parsed)
        assert (pair.answer.style, pair.answer.look) == (pair.reference.style, pair.reference.look)


def test_a_leak_is_the_thing_of_the_reference_in_any_colour() -> None:
    pair = PAIRS[0]
    kind, colour = shown(pair)
    other = asked(pair)[1]
    arm = Arm([Case(pair.ask)] * 4)
    arm.seen = [see((kind, colour)), see(asked(pair), (kind, other)), see(asked(pair)), see()]
    assert find_leaks([pair] * 4, arm).tolist() == [1, 1, 0, 0]
    assert find(arm.seen[2].parsed, pair.ask.wanted[0])


def test_a_ratio_is_that_of_the_means_and_pairs_stay_together() -> None:
    off = np.random.default_rng(0).uniform(0.1, 3, 200)
    exact = compare_ratio(off, 0.7 * off, 0.9)
    assert exact.value == pytest.approx(0.7) and exact.baseline == 0.9
    assert exact.ci95 == pytest.approx((0.7, 0.7))  # apart they would vary by the spread of both means
    noisy = compare_ratio(off, 0.7 * off + np.random.default_rng(1).normal(0, 0.3, 200))
    assert noisy.ci95 is not None and noisy.ci95[0] < noisy.value < noisy.ci95[1]
    assert compare_shares(off, 0.7 * off).value == pytest.approx(0.7)
    # One pair a thousand times as far decides the ratio of means, and hardly moves the mean of ratios.
    far, near = np.append(off, 1000 * off.max()), np.append(0.7 * off, 2000 * off.max())
    assert compare_ratio(far, near).value > 1.5 and compare_shares(far, near).value == pytest.approx(0.7, rel=0.01)
    assert compare_difference(off, off + 1).ci95 == pytest.approx((1, 1))


def test_the_summary_of_arms() -> None:
    figures = summarise(PAIRS, ARMS)
    expected = {
        "style_distance_ratio": (2 / 3, 1.0),
        "gram_distance_ratio": (2 / 3, 1.0),
        "content_accuracy_gap": (6 / 48, 12 / 48),
        "leakage": (6 / 48, 12 / 48),
    }
    assert list(figures) == list(expected)
    for name, (value, baseline) in expected.items():
        figure = figures[name]
        assert (figure.value, figure.baseline) == (pytest.approx(value), pytest.approx(baseline))
        assert figure.ci95 is not None and figure.ci95[0] <= value + 1e-9 and figure.ci95[1] >= value - 1e-9


def test_every_arm_is_described_and_compared_with_words_alone() -> None:
    figures = describe_arms(PAIRS, ARMS)
    assert figures["drawn_distance_ratio"].value == pytest.approx(1 / 8)
    assert figures["visual_style_leaks"].value == pytest.approx(6 / 48) and figures["words_distance_ratio"].value == 1
    columns = [ARMS[NAMED].features[:, column] for column in (READ, TRUE, GRAM)]
    names = ("named_distance", "named_true_distance", "named_gram")
    expected = [columns[0].mean(), columns[1].mean(), np.median(columns[2])]
    assert [figures[name].value for name in names] == pytest.approx(expected)


def test_a_point_of_the_curve_is_compared_on_its_own_pairs() -> None:
    few = make_arm(0.4, 10, 0, PAIRS[:12])
    words = ARMS[WORDS]
    figures = describe_point("vsp_0.2", words, few)
    assert list(figures) == ["pareto_vsp_0.2_distance", "pareto_vsp_0.2_content"]
    assert figures["pareto_vsp_0.2_content"].value == pytest.approx(10 / 12)
    assert figures["pareto_vsp_0.2_distance"].baseline == pytest.approx(words.features[:12, READ].mean())


def test_a_curve_lies_below_another_where_it_shows_no_less() -> None:
    few = PAIRS[:12]
    rivals = [make_arm(1.0, 12, 0, few), make_arm(0.5, 6, 0, few)]
    better = [make_arm(0.8, 12, 0, few), make_arm(0.3, 5, 0, few)]
    assert compare_curves(rivals, better).value == pytest.approx(0.8 / 0.5)  # 0.3 shows less than the rival's second
    assert compare_curves(rivals[:1], better).value == pytest.approx(0.8)
    assert compare_curves(rivals, [*better, make_arm(0.4, 6, 0, few)]).value == pytest.approx(0.8)
    assert compare_curves(rivals[:1], better[1:]).value == 1


def test_a_kept_arm_is_of_its_judges(tmp_path: Path) -> None:
    path, arm = tmp_path / "arm.json", ARMS[VISUAL]
    save_arm(path, arm, ["a request"], judges=("initial_mean",))
    again = Arm(arm.cases)
    assert not load_arm(path, again, ["a request"]) and not again.seen
    assert load_arm(path, again, ["a request"], judges=("initial_mean",))
    assert again.seen == arm.seen and (again.features == arm.features).all()
