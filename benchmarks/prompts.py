"""The prompts of the fidelity figures, from a fixed seed over the world's vocabulary.

Half of the prompts with two objects, and a quarter of those with one coloured object, are combinations that the
hold-out rule keeps from training. Every prompt says what a picture must show.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np

from benchmarks.geneval import Ask, Wanted
from training.world.caption import count_phrase, object_phrase, relation_phrase
from training.world.scene import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    RELATIONS,
    STYLES,
    is_drawable,
    is_held_out_duo,
    is_held_out_pair,
    is_held_out_style,
)

SEED = 20_240
FRONTS = ("", "a picture of ", "an image of ", "a drawing of ")
COUNTS = (2, 3, 4)
# How many trained colours stand against the one that is held out, for each kind.
NUM_TRAINED_COLOURS = 4
BACKGROUND_PHRASES = {
    "plain": "on a plain background",
    "meadow": "in a meadow",
    "beach": "on the beach",
    "sea": "at sea",
    "city": "in the city",
    "desert": "in the desert",
    "snow": "in the snow",
    "mountains": "in the mountains",
    "sky": "in the sky",
}


def pick(candidates: Sequence[Ask], n: int, rng: np.random.Generator, held_out_share: float = 0.0) -> list[Ask]:
    """Pick n different prompts in a fixed order, a given share of them held out, as far as there are as many."""
    order = [candidates[index] for index in rng.permutation(len(candidates))]
    held = [ask for ask in order if ask.is_held_out][: round(n * held_out_share)]
    rest = [ask for ask in order if not (held_out_share and ask.is_held_out)][: n - len(held)]
    chosen = [*held, *rest]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def pick_evenly(groups: Sequence[Sequence[Ask]], n: int, rng: np.random.Generator) -> list[Ask]:
    """Pick n prompts, one from each group in turn, so that every group is asked as often."""
    shuffled = [[group[index] for index in rng.permutation(len(group))] for group in groups]
    turns = [group[turn] for turn in range(max(map(len, shuffled))) for group in shuffled if turn < len(group)]
    return turns[:n]


def ask_single(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for one object: "a boat", "a picture of a boat"."""
    groups = [[Ask(front + object_phrase(kind), (Wanted(kind),)) for kind in KINDS] for front in FRONTS]
    return [ask for group in groups for ask in pick(group, len(group), rng)][:n]


def ask_two(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for two different objects: "a boat and a moon"."""
    asks = []
    for kinds in combinations(KINDS, 2):
        a, b = (kinds[index] for index in rng.permutation(2))
        prompt = f"{object_phrase(a)} and {object_phrase(b)}"
        asks.append(Ask(prompt, (Wanted(a), Wanted(b)), is_held_out=is_held_out_duo(a, b)))
    return pick(asks, n, rng, held_out_share=0.5)


def ask_counting(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for two to four of the same object: "three stars"."""
    plain, framed = (
        [Ask(front + count_phrase(kind, count), (Wanted(kind),), count=count) for kind, count in product(KINDS, COUNTS)]
        for front in FRONTS[:2]
    )
    return [*pick(plain, len(plain), rng), *pick(framed, len(framed), rng)][:n]


def ask_colours(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for one coloured object: "a red boat"."""
    asks = [make_pair(kind, colour) for kind, colour in product(KINDS, COLOURS)]
    return pick(asks, n, rng, held_out_share=0.25)


def make_pair(kind: str, colour: str) -> Ask:
    """Ask for one object in one colour."""
    held_out = is_held_out_pair(kind, colour)
    return Ask(object_phrase(kind, colour), (Wanted(kind, colour),), is_held_out=held_out)


def ask_position(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for two objects in a relation, every relation as often: "a boat left of a moon"."""
    duos = [tuple(kinds[index] for index in rng.permutation(2)) for kinds in combinations(KINDS, 2)]
    order = [duos[index] for index in rng.permutation(len(duos))]
    groups = []
    for turn, relation in enumerate(RELATIONS):
        asks = []
        for a, b in order[turn :: len(RELATIONS)]:
            prompt = relation_phrase(object_phrase(a), relation, object_phrase(b))
            held_out = is_held_out_duo(a, b)
            asks.append(Ask(prompt, (Wanted(a), Wanted(b)), relation=relation, is_held_out=held_out))
        groups.append(pick(asks, -(-n // len(RELATIONS)), rng, held_out_share=0.5))
    return pick_evenly(groups, n, rng)


def ask_attribution(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for two objects in different colours: "a red boat and a white moon"."""
    asks = []
    for kinds in combinations(KINDS, 2):
        a, b = (kinds[index] for index in rng.permutation(2))
        first, second = (COLOURS[index] for index in rng.permutation(len(COLOURS))[:2])
        prompt = f"{object_phrase(a, first)} and {object_phrase(b, second)}"
        held_out = is_held_out_duo(a, b) or is_held_out_pair(a, first) or is_held_out_pair(b, second)
        asks.append(Ask(prompt, (Wanted(a, first), Wanted(b, second)), is_held_out=held_out))
    return pick(asks, n, rng, held_out_share=0.5)


def ask_one_object_all(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for object, colour, background and style at once: "a red boat at sea, watercolor"."""
    asks: dict[str, Ask] = {}
    while len(asks) < n:
        kind, colour, background, style = (str(rng.choice(names)) for names in (KINDS, COLOURS, BACKGROUNDS, STYLES))
        if not is_drawable(colour, style):
            continue
        prompt = f"{object_phrase(kind, colour)} {BACKGROUND_PHRASES[background]}, {style}"
        held_out = is_held_out_pair(kind, colour) or is_held_out_style(kind, style)
        wanted = (Wanted(kind, colour),)
        asks[prompt] = Ask(prompt, wanted, background=background, style=style, is_held_out=held_out)
    return list(asks.values())


def ask_pairs(n: int) -> tuple[list[Ask], list[Ask]]:
    """Ask for colours that a kind never had in training, and for the next colours of the same kinds.

    Returns: (never trained, trained); both lists hold every kind and every colour in the same shares when n is at
             least the number of kinds, so that an easy kind or colour cannot make the difference.
    """
    shifts = range(1, NUM_TRAINED_COLOURS + 1)
    never, trained = [], []
    for kind in KINDS[:n]:
        held = next(index for index, colour in enumerate(COLOURS) if is_held_out_pair(kind, colour))
        never.append(make_pair(kind, COLOURS[held]))
        trained += [make_pair(kind, COLOURS[(held + shift) % len(COLOURS)]) for shift in shifts]
    return never, trained


GENEVAL_TASKS: dict[str, Callable[[int, np.random.Generator], list[Ask]]] = {
    "geneval_single": ask_single,
    "geneval_two": ask_two,
    "geneval_counting": ask_counting,
    "geneval_colours": ask_colours,
    "geneval_position": ask_position,
    "geneval_attribution": ask_attribution,
}


def make_asks(name: str, n: int) -> list[Ask]:
    """Make the prompts of one task, the same ones every time."""
    task = GENEVAL_TASKS.get(name, ask_one_object_all)
    return task(n, np.random.default_rng([SEED, *name.encode()]))
