"""Settings in PNG files: exact round trip, the readable block, and every kind of forged or oversized metadata."""

from __future__ import annotations

import ast
import dataclasses
import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from pipelines import (
    DragPair,
    DragRequest,
    DragResult,
    ImageResult,
    StyleArm,
    StyleRequest,
    StyleResult,
    TextToImageRequest,
    UserError,
    read_drag_settings,
    read_settings,
    read_style_settings,
    settings_to_pnginfo,
    to_python,
)

REQUEST = TextToImageRequest(
    'a "red" boat, 红色, line one\nline two',
    "fog",
    seed=7,
    num_steps=12,
    guidance_scale=3.5,
    sampler="ddim",
    num_images=2,
)

STYLE = StyleRequest(
    "a cat",
    reference=Image.new("RGB", (8, 8), "teal"),
    second_prompt="a blue star, neon",
    techniques={"visual_style": {"depth": 2, "blend": 0.3}},
    extend="left",
    seed=9,
    num_images=2,
    compare=True,
)


def make_style_result() -> StyleResult:
    images = tuple(Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    arm = StyleArm("visual_style", "Visual Style Prompting", images, ())
    return StyleResult((arm,), (images[0],), (30.0,), STYLE.seed, 1.0, (), STYLE)


def make_result(request: TextToImageRequest = REQUEST) -> ImageResult:
    images = tuple(Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    return ImageResult(images, (), request.seed, 1.0, (), (), request)


def save(path: Path, **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("index", [0, 1])
def test_every_field_comes_back(tmp_path: Path, index: int) -> None:
    path = tmp_path / "picture.png"
    result = make_result()
    result.images[index].save(path, pnginfo=settings_to_pnginfo(result, index))
    assert read_settings(path) == dataclasses.replace(REQUEST, seed=7 + index, num_images=1)


def test_a_picture_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="picture 2 of 2"):
        settings_to_pnginfo(make_result(), 2)


def test_the_readable_block_is_what_other_tools_expect(tmp_path: Path) -> None:
    request = TextToImageRequest(
        "a red boat", "fog", seed=7, num_steps=12, guidance_scale=3.5, techniques={"s_cfg": {}, "rece": {}}
    )
    path, result = tmp_path / "picture.png", make_result(request)
    result.images[0].save(path, pnginfo=settings_to_pnginfo(result))
    written = Image.open(path).text["parameters"]  # type: ignore[attr-defined]
    assert written == (
        "a red boat\nNegative prompt: fog\nSteps: 12, Sampler: DPM++ 2M, CFG scale: 3.5, Seed: 7, Size: 8x8, "
        "Model: storybook, Techniques: s_cfg + rece"
    )
    assert read_settings(save(tmp_path / "other.png", parameters=written)) == request


def test_a_block_of_another_tool_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    written = "a castle, (best:1.2)\nSteps: 30, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x512, Model: dream"
    expected = TextToImageRequest("a castle, (best:1.2)", seed=42, num_steps=30, guidance_scale=7)
    assert read_settings(save(tmp_path / "other.png", parameters=written)) == expected


def test_the_rescale_of_another_tool_is_our_technique(tmp_path: Path) -> None:
    path = save(tmp_path / "other.png", parameters="a castle\nSteps: 30, Seed: 42, CFG rescale: 0.5")
    assert read_settings(path).techniques == {"cfg_rescale": {"strength": 0.5}}


@pytest.mark.parametrize("index", [0, 1])
def test_a_style_request_comes_back_without_its_picture(tmp_path: Path, index: int) -> None:
    path = tmp_path / "picture.png"
    result = make_style_result()
    result.images[index].save(path, pnginfo=settings_to_pnginfo(result, index))
    expected = dataclasses.replace(STYLE, reference=None, seed=9 + index, num_images=1, compare=False)
    assert read_style_settings(path) == expected
    assert path.stat().st_size < 2000


def test_a_picture_of_another_tab_says_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "style.png"
    result = make_style_result()
    result.images[0].save(path, pnginfo=settings_to_pnginfo(result))
    with pytest.raises(UserError, match="drawn in the tab Style prompting; drop it into the settings there"):
        read_settings(path)
    plain = make_result()
    plain.images[0].save(path, pnginfo=settings_to_pnginfo(plain))
    with pytest.raises(UserError, match="drawn in the tab Text to image; drop it into the settings there"):
        read_style_settings(path)
    older = json.dumps({"version": 1, "request": {"prompt": "a"}})
    assert read_settings(save(path, limelight=older)) == TextToImageRequest("a")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "holds no style settings"),
        ({"parameters": "a castle\nSteps: 30, Seed: 42"}, "holds no style settings"),
        ({"limelight": json.dumps({"version": 1, "tab": "Magic", "request": {"prompt": "a"}})}, "not written by"),
        ({"limelight": json.dumps({"version": 1, "tab": ["a"], "request": {"prompt": "a"}})}, "not written by"),
        ({"limelight": '{"version": 1, "tab": "Style prompting", "request": {"prompt": "a", "second": "b"}}'}, "not"),
        ({"limelight": '{"version": 1, "tab": "Style prompting", "request": {"prompt": "a", "extend": 3}}'}, "Extend"),
    ],
)
def test_forged_style_settings_are_one_sentence(tmp_path: Path, texts: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_style_settings(save(tmp_path / "forged.png", **texts))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "holds no settings"),
        ({"limelight": "not json"}, "were not written by Limelight"),
        ({"limelight": "[" * 60_000}, "were not written by Limelight"),
        ({"limelight": "[1, 2]"}, "were not written by Limelight"),
        ({"limelight": json.dumps({"version": 9, "request": {"prompt": "a"}})}, "were not written by Limelight"),
        ({"limelight": json.dumps({"version": 1, "request": "a"})}, "were not written by Limelight"),
        ({"limelight": json.dumps({"version": 1, "request": {"seed": 1}})}, "were not written by Limelight"),
        ({"limelight": json.dumps({"version": 1, "request": {"prompt": "a", "x": 1}})}, "were not written by"),
        ({"limelight": json.dumps({"version": 1, "request": {"prompt": "a", "seed": -4}})}, "Seed -4 is too low"),
        ({"limelight": json.dumps({"version": 1, "request": {"prompt": "a", "seed": "1"}})}, "Seed must be a number"),
        ({"limelight": json.dumps({"version": 1, "request": {"prompt": ["a"]}})}, "Prompt must be text"),
        ({"limelight": '{"version": 1, "request": {"prompt": "a", "guidance_scale": NaN}}'}, "finite number"),
        ({"limelight": '{"version": 1, "request": {"prompt": "a", "seed": ' + "9" * 5000 + "}}"}, "Limelight"),
        ({"parameters": "hello"}, "in an unknown form"),
        ({"parameters": "a\nSteps: 1e99, Seed: 3"}, "too high"),
        ({"parameters": "a\nSteps: many, Seed: 3"}, "Steps 'many' inside this PNG is not a number"),
        ({"parameters": "a\nSteps: nan, Seed: 3"}, "finite number"),
    ],
)
def test_forged_settings_are_one_sentence(tmp_path: Path, texts: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_settings(save(tmp_path / "forged.png", **texts))
    assert words in str(caught.value) and len(str(caught.value)) < 200


def test_five_megabytes_of_metadata_are_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "big.png", limelight="x" * 5_000_000)
    with pytest.raises(UserError, match=r"too large \(4882 KB\); settings have at most 64 KB"):
        read_settings(path)


def test_compressed_metadata_is_never_unpacked(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("limelight", " " * 50_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "bomb.png", pnginfo=info)
    with pytest.raises(UserError, match="holds no settings"):
        read_settings(tmp_path / "bomb.png")


def test_damaged_and_foreign_files_are_one_sentence(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", limelight="{}").read_bytes()
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.replace(b"{}", b"[]"))
    with pytest.raises(UserError, match="damaged"):
        read_settings(broken)
    broken.write_bytes(good[:50])
    with pytest.raises(UserError, match="damaged|no settings"):
        read_settings(broken)
    broken.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="not a PNG"):
        read_settings(broken)
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 13) + b"\xff\xff\xff\xfftEXt")
    with pytest.raises(UserError, match="too large"):
        read_settings(broken)
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"iTXt", b"limelight\0\0\0en\0") + chunk(b"IEND", b""))
    with pytest.raises(UserError):
        read_settings(broken)


def test_python_code_names_every_setting_and_survives_quotes() -> None:
    code = to_python(dataclasses.replace(REQUEST, width_px=128, techniques={"cfg_rescale": {"strength": 0.3}}))
    compile(code, "copied", "exec")
    for piece in (repr(REQUEST.prompt), "DDIMScheduler", "num_inference_steps=12", "guidance_scale=3.5", "width=128"):
        assert piece in code
    assert "guidance_rescale=0.3" in code and "range(7, 9)" in code and "assets/storybook" in code
    assert "StableDiffusionXLPipeline" in to_python(TextToImageRequest("a", backend="sdxl"))


def test_python_code_of_a_technique_uses_our_own_pipelines() -> None:
    request = dataclasses.replace(REQUEST, techniques={"s_cfg": {"strength": 0.5}})
    code = to_python(request)
    compile(code, "copied", "exec")
    written = read_request(code)
    assert written == request


def test_python_code_of_a_style_names_the_file_of_its_picture() -> None:
    code = to_python(STYLE)
    compile(code, "copied", "exec")
    assert "*steps, result = style_stream(request, ModelStore())" in code
    call = code.split("request = ")[1].split("\n)\n")[0] + "\n)"
    words = {str(word.arg): word.value for word in ast.parse(call, mode="eval").body.keywords}  # type: ignore[attr-defined]
    assert ast.unparse(words.pop("reference")) == "Image.open('reference.png')"
    values = {name: ast.literal_eval(value) for name, value in words.items()}
    assert StyleRequest(reference=STYLE.reference, **values) == STYLE


def read_request(code: str) -> TextToImageRequest:
    """Run the part of copied code that makes the request."""
    call = code.split("request = ")[1].split("\n)\n")[0] + "\n)"
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    return TextToImageRequest(**{str(word.arg): ast.literal_eval(word.value) for word in tree.keywords})


def save_drag(path: Path, **changes: object) -> DragRequest:
    """Write a dragged picture of 48 px with its settings and give the request that made it."""
    picture = Image.new("RGB", (48, 48), "teal")
    mask = Image.new("L", (48, 48))
    mask.paste(255, (8, 8, 40, 40))
    pairs = (DragPair(10, 12, 30, 12), DragPair(20, 30, 20, 36))
    request = DragRequest(picture, "a boat", pairs, mask, {"drag_noise": {"num_rounds": 9}}, pull="move", seed=4)
    request = dataclasses.replace(request, **changes)  # type: ignore[arg-type]
    result = DragResult(picture, picture, mask, ((30, 12),), (), 4, 1.0, (), 30.0, (), request)
    result.image.save(path, pnginfo=settings_to_pnginfo(result))
    return request


def test_a_drag_comes_back_with_points_and_mask_but_without_its_picture(tmp_path: Path) -> None:
    path = tmp_path / "drag.png"
    request = save_drag(path)
    read, is_drawn = read_drag_settings(path)
    assert not is_drawn and read.picture is None
    assert read.mask is not None and request.mask is not None and read.mask.tobytes() == request.mask.tobytes()
    assert dataclasses.replace(read, mask=None) == dataclasses.replace(request, mask=None, picture=None)
    save_drag(path, picture=None, mask=None)
    read, is_drawn = read_drag_settings(path)
    assert is_drawn and read.mask is None
    with pytest.raises(UserError, match="drawn in the tab Drag editing"):
        read_style_settings(path)


@pytest.mark.parametrize("mask", ["data:image/png;base64,AAAA", 7, {"a": 1}, "http://somewhere"])
def test_a_forged_mask_is_refused(tmp_path: Path, mask: object) -> None:
    info = PngImagePlugin.PngInfo()
    request = {"prompt": "", "pairs": [], "techniques": {"fast_drag": {}}}
    document = {"version": 1, "tab": "Drag editing", "mask": mask, "request": request}
    info.add_text("limelight", json.dumps(document))
    Image.new("RGB", (8, 8)).save(tmp_path / "forged.png", pnginfo=info)
    with pytest.raises(UserError, match="The mask cannot be read"):
        read_drag_settings(tmp_path / "forged.png")


def test_python_code_of_a_drag_names_its_pairs_and_files(tmp_path: Path) -> None:
    code = to_python(save_drag(tmp_path / "drag.png"))
    compile(code, "copied", "exec")
    assert "from pipelines import DragPair, ModelStore, DragRequest, drag_stream" in code
    assert "DragPair(handle_x=20, handle_y=30, target_x=20, target_y=36)" in code
    assert 'picture=Image.open("picture.png")' in code and 'mask=Image.open("mask.png")' in code
