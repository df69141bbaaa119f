"""The prompts: fixed, different, in the model's words, and held out as far as promised."""

from collections import Counter

import pytest

from benchmarks.fidelity import FULL_N, is_read_right
from benchmarks.prompts import BACKGROUND_PHRASES, GENEVAL_TASKS, ask_pairs, make_asks
from pipelines.scene_parser import ParsedObject, ParsedScene
from training.world.caption import MAX_WORDS, split_words, vocabulary
from training.world.scene import BACKGROUNDS, RELATIONS, Scene, SceneObject, is_held_out_pair

TASKS = (*GENEVAL_TASKS, "one_object_all")


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_fixed_different_and_in_the_models_words(task: str) -> None:
    asks = make_asks(task, FULL_N)
    assert asks == make_asks(task, FULL_N)
    assert len(asks) == FULL_N == len({ask.prompt for ask in asks})
    known = set(vocabulary())
    for ask in asks:
        words = split_words(ask.prompt)
        assert set(words) <= known and len(words) <= MAX_WORDS


@pytest.mark.parametrize("n", [1, 6, 24])
def test_a_small_run_asks_as_many_as_it_says(n: int) -> None:
    assert all(len(make_asks(task, n)) == n for task in TASKS)


def test_held_out_combinations_have_the_promised_share() -> None:
    share = {task: sum(ask.is_held_out for ask in make_asks(task, FULL_N)) / FULL_N for task in TASKS}
    assert share["geneval_colours"] == 0.25
    assert share["geneval_attribution"] == 0.5
    # There are 44 duos that never share a picture, fewer than half of the prompts.
    assert 0.4 <= share["geneval_two"] <= 0.5 and 0.4 <= share["geneval_position"] <= 0.5
    assert 0 < share["one_object_all"] < 0.25
    assert share["geneval_single"] == share["geneval_counting"] == 0


def test_every_relation_and_every_count_is_asked_as_often() -> None:
    relations = Counter(ask.relation for ask in make_asks("geneval_position", FULL_N))
    assert set(relations) == set(RELATIONS) and len(set(relations.values())) == 1
    counts = Counter(ask.count for ask in make_asks("geneval_counting", FULL_N))
    assert set(counts) == {2, 3, 4} and max(counts.values()) - min(counts.values()) < 12


def test_both_sides_of_the_gap_hold_every_kind_and_colour_in_the_same_shares() -> None:
    never, trained = ask_pairs(FULL_N)
    assert all(is_held_out_pair(ask.wanted[0].kind, str(ask.wanted[0].colour)) for ask in never)
    assert not any(is_held_out_pair(ask.wanted[0].kind, str(ask.wanted[0].colour)) for ask in trained)
    for part in ("kind", "colour"):
        counts = [Counter(getattr(ask.wanted[0], part) for ask in asks) for asks in (never, trained)]
        factor = len(trained) // len(never)
        assert counts[1] == {name: factor * number for name, number in counts[0].items()}


def test_every_background_has_a_phrase() -> None:
    assert set(BACKGROUND_PHRASES) == set(BACKGROUNDS)


def test_a_scene_is_read_right_only_with_all_its_objects_and_no_other() -> None:
    scene = Scene(tuple(SceneObject("boat", colour, 60, 60, 40) for colour in ("red", "blue")), "sea", "day", "flat")

    def parsed(*pairs: tuple[str, str]) -> ParsedScene:
        return ParsedScene(tuple(ParsedObject(*pair, (0, 0, 1, 1), 0.9) for pair in pairs), "sea", "day", "flat")

    assert is_read_right(scene, parsed(("boat", "blue"), ("boat", "red")))
    assert not is_read_right(scene, parsed(("boat", "red"), ("boat", "red")))
    assert not is_read_right(scene, parsed(("boat", "blue")))
    assert not is_read_right(scene, parsed(("boat", "blue"), ("boat", "red"), ("cat", "red")))
