"""A Zero-1-to-3 network as teacher: loaded from its files, told picture and camera, in the place of our own."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.errors import BackendUnavailable
from pipelines.networks import Networks
from pipelines.preview_3d import preview_3d_stream
from pipelines.preview_records import Preview3dRequest, Preview3dResult
from pipelines.runtime import RunOptions, read_options
from pipelines.zero_teacher import ZeroTeacher, load_zero_teacher, make_move
from tests.pipelines.test_preview_3d import Provider, draw_thing

WIDTH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny random checkpoint in the form of the large ones."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("zero")
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4,
        sample_size=16,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=WIDTH,
    )
    parts = {"vae": vae, "unet": unet, "image_encoder": CLIPVisionModelWithProjection(vision)}
    for name, part in {**parts, "scheduler": DDIMScheduler(num_train_timesteps=100)}.items():
        part.save_pretrained(path / name)
    (path / "clip_camera_projection").mkdir()
    linear = torch.nn.Linear(WIDTH + 4, WIDTH)
    named = {f"proj.{name}": value.detach() for name, value in linear.named_parameters()}
    save_file(named, path / "clip_camera_projection" / "diffusion_pytorch_model.safetensors")
    config = {"embedding_dim": WIDTH, "additional_embeddings": 4}
    (path / "clip_camera_projection" / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def teacher(folder: Path) -> ZeroTeacher:
    """Load it."""
    return load_zero_teacher(folder, device="cpu", dtype=torch.float32)


def make_views() -> torch.Tensor:
    """Make nine random pictures: eight views and one from the front."""
    return torch.rand((9, 4, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_views_are_drawn_alike_from_the_same_seed_and_hear_of_picture_and_camera(teacher: ZeroTeacher) -> None:
    views = make_views()
    *_, first = teacher.turn(views[:8], views[8], seed=3, num_steps=1)
    *_, again = teacher.turn(views[:8], views[8], seed=3, num_steps=1)
    *_, other = teacher.turn(views[:8], -views[8], seed=3, num_steps=1)
    assert first.shape == (8, 4, 64, 64) and first.abs().max() <= 1 and torch.equal(first, again)
    assert not torch.equal(first, other)
    tokens, _ = teacher._tell(views[8])
    assert len({tuple(row) for row in tokens[:, 0].tolist()}) == 8  # every camera is another one


def test_hardly_noised_views_come_back_as_the_autoencoder_sees_them(teacher: ZeroTeacher) -> None:
    views = make_views()
    seen = teacher._decode(teacher._encode(views[:8, :3]))
    near, far = (teacher.correct(views[:8], views[:8], views[8], root=root, seed=0) for root in (0.0, 0.9))
    assert (near - seen).abs().mean() < 0.5 * (far - seen).abs().mean()


def test_the_camera_moves_as_it_was_trained_to() -> None:
    assert make_move(0.0, 0.0) == pytest.approx((0, 0, 1, 0))
    assert make_move(90.0, 30.0) == pytest.approx((-torch.pi / 6, 1, 0, 0), abs=1e-6)


def test_the_page_takes_it_by_configuration(folder: Path) -> None:
    assert read_options({"LIMELIGHT_TEACHER_PATH": str(folder)}).teacher_path == str(folder)
    networks = Networks(folder / "nothing", options=RunOptions(device="cpu", dtype="fp32", teacher_path=str(folder)))
    assert networks.explain_missing("views") == ""
    request = Preview3dRequest(picture=draw_thing(64), method="polish", view_steps=1, fit_steps=20, polish_rounds=1)
    *_, result = preview_3d_stream(request, Provider(networks))
    assert isinstance(result, Preview3dResult) and result.mesh is not None and len(result.views) == 8
    assert isinstance(networks.turntable, ZeroTeacher)


def test_a_folder_without_teacher_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="give the folder of one in diffusers' form"):
        load_zero_teacher(tmp_path, device="cpu", dtype=torch.float32)
