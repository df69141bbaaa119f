"""The denoiser's recipe: tokens, targets, batches that depend on the step alone, two real steps, export."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipelines.errors import UserError
from pipelines.scene_parser import ParsedObject, ParsedScene
from pipelines.schedules import make_alpha_bar
from training.export import (
    Gate,
    build_pipeline,
    check_gates,
    is_shown,
    list_gate_asks,
    write_manifest,
    write_warm_start,
)
from training.objectives import make_v_target, sample_timesteps, slot_loss, truth_alignment_loss
from training.text_side import MAX_TOKENS, UNSTATED, make_slots, make_tokenizer
from training.train_autoencoder import load_start, write_start, write_start_from
from training.train_denoiser import (
    DEFAULTS,
    DenoiserObjective,
    Mixture,
    SceneBatches,
    TruthHead,
    name_layout,
    sample_layout,
)
from training.trainer import Trainer, load_averaged
from training.world.caption import read_caption, split_words, vocabulary
from training.world.scene import (
    BACKGROUNDS,
    KINDS,
    RELATIONS,
    STYLES,
    SceneObject,
    find_relation,
    is_held_out,
    is_held_out_duo,
    is_held_out_pair,
    sample_scene,
)


def test_tokens_are_whole_words_of_the_vocabulary() -> None:
    tokenizer = make_tokenizer()
    assert len(tokenizer) == len(vocabulary()) + 4
    ids = tokenizer("A red, Boat left-of 2 dragons!", padding="max_length").input_ids
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words[:9] == ["<start>", "a", "red", "boat", "left", "of", "2", "<unk>", "<end>"]
    assert len(ids) == MAX_TOKENS and set(words[9:]) == {"<pad>"}


def test_tokenizer_splits_words_like_the_captions_do() -> None:
    tokenizer = make_tokenizer()
    for text in ("a cat,dog", "night  sky.", "x_y", "three 8bit stars"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == len(split_words(text)), text


def test_timesteps_cover_the_noisy_end() -> None:
    timesteps = sample_timesteps(6400, torch.Generator().manual_seed(0))
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    assert 0.35 < (timesteps < 400).float().mean() < 0.45
    for noisy_frac in (0.0, 0.25, 0.75):
        timesteps = sample_timesteps(6400, torch.Generator().manual_seed(0), noisy_frac=noisy_frac, logit_mean=0.0)
        expected = noisy_frac + (1 - noisy_frac) * 0.180  # of the logit-normal draws, 18 % lie up there anyway
        assert (timesteps >= 750).float().mean() == pytest.approx(expected, abs=0.02)


def test_velocity_target_recovers_both_parts() -> None:
    x0, eps = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    alpha_bar = make_alpha_bar()[torch.tensor([100, 999])]
    noisy, target = make_v_target(x0, eps, alpha_bar)
    root, rest = alpha_bar.sqrt().float().view(2, 1, 1, 1), (1 - alpha_bar).sqrt().float().view(2, 1, 1, 1)
    assert torch.allclose(root * noisy - rest * target, x0, atol=1e-5)
    assert torch.allclose(rest * noisy + root * target, eps, atol=1e-5)


def test_alignment_loss_is_zero_for_perfect_logits() -> None:
    truth = [torch.randint(0, classes, (2, 3, 3)) for classes in TruthHead.num_classes]
    sure = [
        50.0 * torch.nn.functional.one_hot(cells, classes).movedim(-1, 1).float()
        for cells, classes in zip(truth, TruthHead.num_classes, strict=True)
    ]
    assert truth_alignment_loss(sure, truth) < 1e-6
    unsure = truth_alignment_loss([0 * logits for logits in sure], truth)
    assert unsure == pytest.approx(sum(np.log(TruthHead.num_classes)))


def test_slots_hold_the_things_as_mentioned_and_where_they_stand() -> None:
    boat, moon, star, red = KINDS.index("boat") + 1, KINDS.index("moon") + 1, KINDS.index("star") + 1, 1
    placed, counted, open_, long = make_slots(
        ["a red boat right of a moon", "three stars", "a boat and a moon", " ".join(["a"] * 26)]
    )
    assert placed.tolist() == [[boat, moon, 0, 0, moon, boat, 0, 0], [red, 0, 0, 0, 0, red, 0, 0]]
    assert counted[0].tolist() == [star, star, star, 0, 0, 0, 0, 0]
    assert open_[0].tolist() == [boat, moon, 0, 0] + [UNSTATED] * 4
    assert (long == UNSTATED).all()


def test_slot_loss_ignores_what_is_not_stated() -> None:
    slots = make_slots(["a boat and a moon"])
    logits = [torch.zeros(1, classes, slots.shape[2]) for classes in (25, 13)]
    expected = np.log(25) + np.log(13)
    assert slot_loss(tuple(logits), slots) == pytest.approx(expected)
    logits[0][:, :, 4:] = 100 * torch.randn(1, 25, 4)
    assert slot_loss(tuple(logits), slots) == pytest.approx(expected)


def test_batches_depend_on_the_step_alone_and_obey_the_hold_out_rule() -> None:
    batches = SceneBatches(3, 100, 128)
    first, again = batches[7], batches[7]
    assert np.array_equal(first.pictures, again.pictures) and first.captions == again.captions
    assert first.truth.shape == (4, 3, 8, 8)
    scene = sample_scene(7 * 3 + 1)
    assert (first.truth[2, 1] == BACKGROUNDS.index(scene.background)).all()
    assert (first.truth[3, 1] == STYLES.index(scene.style)).all()
    assert not any(is_held_out(sample_scene(seed)) for seed in range(200))


@pytest.mark.parametrize(
    ("layout", "kinds", "objects"), [("solo", {1}, {1}), ("duo", {2}, {2}), ("group", {1}, {2, 3, 4})]
)
def test_a_scene_of_a_layout_shows_just_that(layout: str, kinds: set[int], objects: set[int]) -> None:
    scenes = [sample_layout(seed, layout) for seed in range(40)]
    assert {len({thing.kind for thing in scene.objects}) for scene in scenes} == kinds
    assert {len(scene.objects) for scene in scenes} == objects
    assert not any(is_held_out(scene) for scene in scenes)


def test_a_mixture_keeps_shares_of_a_batch_for_its_layouts_and_leaves_the_rest_to_the_world() -> None:
    mixture = Mixture(solo=0.25, duo=0.5, group=0.125)
    layouts = [mixture.pick_layout(index, 8) for index in range(8)]
    assert layouts == ["duo"] * 4 + ["solo"] * 2 + ["group", None]
    assert sample_layout(5, None) == sample_scene(5)
    assert (
        name_layout(next(s for s in map(sample_scene, range(200)) if len({t.kind for t in s.objects}) == 3)) == "other"
    )


def test_a_batch_holds_the_layouts_of_its_mixture() -> None:
    captions = SceneBatches(8, 100, 64, Mixture(duo=1.0))[3].captions
    assert all(len(read_caption(caption)[0]) == 2 for caption in captions if caption)


def test_two_steps_then_export_to_plain_diffusers(tmp_path: Path) -> None:
    begin = tmp_path / "start.safetensors"
    write_start(begin, num_pictures=4, num_steps=2)
    objective = DenoiserObjective(begin, image_px=64, num_workers=0)
    trainer = Trainer(objective, replace(DEFAULTS, run_dir=str(tmp_path / "run"), batch_size=1))
    logs = [trainer.train_step() for _ in range(2)]
    assert all(np.isfinite(log["denoising"]) and np.isfinite(log["alignment"]) for log in logs)
    trainer.save()
    weights, progress = load_averaged(tmp_path / "run")
    assert progress["step"] == 2
    pipe = build_pipeline(load_start(begin)[0], weights)
    out = tmp_path / "storybook"
    pipe.save_pretrained(out)
    write_manifest(out, [Gate("prompt_agreement", 0.5, 0.1)], {"denoiser": progress})
    write_warm_start(tmp_path, out)
    write_start_from(out, tmp_path / "again.safetensors")
    assert torch.equal(load_start(tmp_path / "again.safetensors")[1].conv.weight, load_start(begin)[1].conv.weight)
    other = DenoiserObjective(tmp_path / "again.safetensors", image_px=64, num_workers=0)
    other.load_shipped(out)
    assert torch.equal(other.modules["unet"].conv_in.weight, trainer.ema["unet.conv_in.weight"])
    loaded = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    assert loaded.tokenizer("a red boat").input_ids == objective.tokenizer("a red boat").input_ids
    assert loaded.scheduler.config.rescale_betas_zero_snr and loaded.scheduler.config.prediction_type == "v_prediction"
    with pytest.raises(UserError, match="shipped"):
        check_gates([Gate("prompt_agreement", 0.4, 0.1)], out, force=False)
    check_gates([Gate("prompt_agreement", 0.4, 0.1)], out, force=True)


def test_gate_prompts_are_allowed_in_training_and_ask_for_what_they_say() -> None:
    asks = list_gate_asks(24)
    for prompt, things in asks["prompt_agreement"]:
        assert not is_held_out_pair(things[0].kind, things[0].colour) and things[0].colour in prompt
    for prompt, (first, second) in asks["position_agreement"]:
        mentions, relation = read_caption(prompt)
        assert [mention.kind for mention in mentions] == [first.kind, second.kind]
        assert relation == find_relation(first, second) and not is_held_out_duo(first.kind, second.kind)
    assert {read_caption(prompt)[1] for prompt, _ in asks["position_agreement"]} == set(RELATIONS)


def test_a_gate_counts_only_what_shows_everything() -> None:
    cat, moon = (
        ParsedObject(kind, "red", box, 0.9) for kind, box in (("cat", (0, 0, 40, 40)), ("moon", (99, 0, 140, 40)))
    )
    left = (SceneObject("cat", "", 0, 0, 0), SceneObject("moon", "", 1, 0, 0))
    seen = ParsedScene((cat, moon), "sea", "day", "flat")
    assert is_shown(left, seen) and not is_shown(left[::-1][:1], seen)
    assert not is_shown((SceneObject("cat", "", 1, 0, 0), SceneObject("moon", "", 0, 0, 0)), seen)
    alone = ParsedScene((cat,), "sea", "day", "flat")
    assert is_shown((SceneObject("cat", "red", 0, 0, 0),), alone)
    assert not is_shown((SceneObject("cat", "blue", 0, 0, 0),), alone)


def test_failed_gate_and_missing_checkpoint_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="below the gate"):
        check_gates([Gate("autoencoder_psnr_db", 20.0, 27.0)], tmp_path, force=True)
    with pytest.raises(UserError, match="no checkpoint"):
        load_averaged(tmp_path)
