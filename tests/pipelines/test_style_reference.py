"""What is read in a style picture: plain attention's own tensors, read once, forgotten when too much is kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from pipelines.attention import list_layers
from pipelines.cfg_batch import run_cond
from pipelines.model import ModelBundle
from pipelines.schedules import add_noise, list_timesteps, make_scheduler
from pipelines.seeding import draw_noise, make_generators
from pipelines.style_attention import find_sources, join_keys
from pipelines.style_reference import NOISE_SEED, forget, make_source, read_features
from tests.pictures import make_ramp
from tests.runs import finish


def read(model: ModelBundle, picture: object, sampler: str = "ddim") -> dict[int, dict[str, tuple[torch.Tensor, ...]]]:
    """Read a picture at two steps."""
    timesteps = list_timesteps(sampler, model.scheduler_config, 2)
    stream = read_features(model, make_source(model, picture), timesteps, sampler=sampler, num_steps=2)  # type: ignore[arg-type]
    return finish(stream)  # type: ignore[arg-type, return-value]


def test_features_are_what_the_plain_unet_computes(tiny_model: ModelBundle) -> None:
    tiny_model.style_memory.clear()
    picture = make_ramp(64)
    source, features = make_source(tiny_model, picture), read(tiny_model, picture)
    timestep = list(features)[-1]
    alpha_bar = float(make_scheduler("ddim", tiny_model.scheduler_config).alphas_cumprod[timestep])
    noise = draw_noise(make_generators(NOISE_SEED, 1), source.latents.shape[1:], "cpu")  # type: ignore[arg-type]
    seen = {}
    hooks = [
        module.to_k.register_forward_hook(lambda _, __, out, name=layer.name: seen.__setitem__(name, out))
        for layer, module in list_layers(tiny_model.unet)
        if layer.kind == "self"
    ]
    with torch.no_grad():
        run_cond(tiny_model, add_noise(source.latents, noise, alpha_bar), timestep, source.text)
    for hook in hooks:
        hook.remove()
    assert set(features[timestep]) == set(seen)
    for name, key in seen.items():
        # Not bit for bit: it was one row of a batch there, and alone here.
        assert torch.allclose(features[timestep][name][1].transpose(1, 2).flatten(2), key, atol=1e-5)


def test_a_picture_is_read_once_and_forgotten_when_there_is_no_room(tiny_sd: ModelBundle) -> None:
    tiny_sd.style_memory.clear()
    first = read(tiny_sd, make_ramp(64))
    assert len(tiny_sd.style_memory) == 2
    again = read(tiny_sd, make_ramp(64))
    assert all(again[timestep] is first[timestep] for timestep in first)
    read(tiny_sd, make_ramp(64).rotate(90))
    assert len(tiny_sd.style_memory) == 4
    size_mb = sum(part.nbytes for heard in list(first.values())[0].values() for part in heard) / 2**20
    forget(tiny_sd, keep_mb=2.5 * size_mb)
    assert len(tiny_sd.style_memory) == 2
    assert all(value is not old for value in tiny_sd.style_memory.values() for old in first.values())
    forget(tiny_sd)
    assert not tiny_sd.style_memory


def test_only_what_is_not_known_is_read(tiny_sd: ModelBundle) -> None:
    tiny_sd.style_memory.clear()
    source, steps = make_source(tiny_sd, make_ramp(64)), list_timesteps("ddim", tiny_sd.scheduler_config, 6)
    some = finish(read_features(tiny_sd, source, steps[1::2], sampler="ddim", num_steps=6))
    stream = read_features(tiny_sd, source, steps, sampler="ddim", num_steps=6)
    notes = [progress.note for progress in stream]
    assert [note.rsplit(" ", 1)[1] for note in notes] == ["4/6", "6/6"]
    again = finish(read_features(tiny_sd, source, steps, sampler="ddim", num_steps=6))
    assert list(again) == steps and all(again[at] is features for at, features in some.items())
    alone = finish(read_features(tiny_sd, replace(source, key="as if new"), steps[:1], sampler="ddim", num_steps=6))
    for name, heard in alone[steps[0]].items():
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(heard, again[steps[0]][name]))


def test_samplers_with_other_noise_levels_read_anew(tiny_storybook: ModelBundle) -> None:
    tiny_storybook.style_memory.clear()
    read(tiny_storybook, make_ramp(64))
    read(tiny_storybook, make_ramp(64), "ddim_short")
    assert len(tiny_storybook.style_memory) == 4


def test_shares_bias_the_softmax_whatever_the_sizes() -> None:
    """With equal logits everywhere, each picture gets just its share of the attention."""
    own = (torch.zeros(1, 2, 6, 4), torch.full((1, 2, 6, 4), 1.0))
    others = [
        tuple(torch.full((1, 2, count, 4), value) for value in (0.0, 0.0, value))
        for count, value in ((3, 2.0), (9, 3.0))
    ]
    shares = [torch.tensor(0.2), torch.tensor([0.1] * 6), torch.tensor([0.7] * 6)]
    keys, values, bias = join_keys(own, others, shares)  # type: ignore[arg-type]
    assert keys.shape == values.shape == (1, 2, 18, 4) and bias.shape == (6, 18)
    probs = bias.softmax(-1)
    for part, share in ((probs[:, :6], 0.2), (probs[:, 6:9], 0.1), (probs[:, 9:], 0.7)):
        assert torch.allclose(part.sum(1), torch.full((6,), share), atol=1e-6)
    looks = find_sources(own[0], keys, bias, others)  # type: ignore[arg-type]
    assert looks.shape == (6, 12) and torch.allclose(looks.sum(1), torch.full((6,), 0.8), atol=1e-6)
    assert float(join_keys(own, others[:1], [torch.tensor(1.0), torch.tensor(0.0)])[2].softmax(-1)[:, 6:].sum()) == 0  # type: ignore[arg-type]
