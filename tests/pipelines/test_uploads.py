"""Uploaded pictures: what is accepted, what is said about it, and one sentence for each bad file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.uploads import MAX_MASK_CHARS, MAX_MB, read_mask, read_photo, read_picture, write_mask
from tests.pictures import make_ramp

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a picture: save(picture, "name.png", **options) -> path."""

    def write(picture: Image.Image, name: str = "picture.png", **options: object) -> Path:
        picture.save(tmp_path / name, **options)  # type: ignore[arg-type]
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_ordinary_pictures_are_taken_without_a_word(save: Save, name: str) -> None:
    upload = read_picture(save(make_ramp(64, 48), name))
    assert upload.picture.mode == "RGB" and upload.picture.size == (64, 48) and upload.notes == ()


def test_a_camera_held_sideways_is_turned(save: Save) -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert read_picture(save(make_ramp(64, 48), "a.jpg", exif=exif)).picture.size == (48, 64)


def test_a_transparent_picture_lies_on_white_paper(save: Save) -> None:
    picture = make_ramp(64)
    picture.putalpha(Image.new("L", (64, 64), 0))
    upload = read_picture(save(picture))
    assert upload.picture.getpixel((5, 5)) == (255, 255, 255) and "white paper" in upload.notes[0]
    listed = make_ramp(64).quantize(8)
    upload = read_picture(save(listed, transparency=0))
    assert upload.picture.mode == "RGB" and "transparent" in upload.notes[0]


def test_a_grey_picture_and_an_animated_one_are_named(save: Save) -> None:
    assert "no colours" in read_picture(save(make_ramp(64).convert("L"))).notes[0]
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    path = save(frames[0], "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    upload = read_picture(path)
    assert "3 frames" in upload.notes[0] and upload.picture.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [((20, 200), "20 x 200 px, which is too small"), ((4100, 4100), "at most 16 megapixels"), ((900, 100), "too long")],
)
def test_sizes_that_do_not_work_are_one_sentence(save: Save, size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_picture(save(Image.new("L", size)))


def test_files_that_are_no_pictures_are_one_sentence(save: Save, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture at all")
    with pytest.raises(UserError, match="cannot be read as a picture; choose a PNG, JPEG or WebP"):
        read_picture(text)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_picture(save(make_ramp(64), "a.bmp"))
    whole = save(make_ramp(64)).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        read_picture(cut)
    large = tmp_path / "large.png"
    large.write_bytes(whole + bytes((MAX_MB + 1) * 2**20))
    with pytest.raises(UserError, match=f"at most {MAX_MB} MB"):
        read_picture(large)


def test_a_mask_becomes_an_address_and_comes_back_in_black_and_white() -> None:
    address = write_mask(Image.linear_gradient("L"))
    assert address.startswith("data:image/png;base64,") and len(address) < 4000
    mask = read_mask(address)
    assert mask.mode == "L" and mask.size == (256, 256) and set(mask.tobytes()) == {0, 255}
    assert [mask.getpixel((9, y)) for y in (127, 128)] == [0, 255]


@pytest.mark.parametrize("address", [None, "", "AAAA", "data:image/png;base64,%%", "data:image/gif;base64,AAAA"])
def test_what_is_no_mask_is_one_sentence(address: object) -> None:
    with pytest.raises(UserError, match="clear it and paint it again"):
        read_mask(address)
    with pytest.raises(UserError, match="clear it and paint it again"):
        read_mask("data:image/png;base64," + "A" * MAX_MASK_CHARS)


def test_sixteen_bits_are_scaled_and_not_cut_off(save: Save) -> None:
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = save(Image.fromarray(levels))
    grey = read_photo(path)
    assert grey.picture.mode == "L" and "16 bits" in grey.notes[0]
    assert np.abs(np.asarray(grey.picture) - levels / 257).max() <= 0.5
    assert np.array_equal(np.asarray(read_picture(path).picture)[..., 1], np.asarray(grey.picture))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_photo_stays_grey_or_transparent(save: Save, mode: str) -> None:
    upload = read_photo(save(make_ramp(16, 200).convert(mode)))
    assert (upload.picture.mode, upload.picture.size, upload.notes) == (mode, (16, 200), ())
    assert not upload.is_lossy


def test_a_photo_for_print_gets_the_colours_of_a_screen(save: Save) -> None:
    upload = read_photo(save(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "a.jpg"))
    assert upload.picture.mode == "RGB" and "CMYK" in upload.notes[0] and upload.is_lossy
    red, green, blue = upload.picture.getpixel((20, 20))
    assert red > 200 and max(green, blue) < 60


@pytest.mark.parametrize("size", [(1, 1), (16, 4000), (3, 7)])
def test_a_photo_may_have_any_shape(save: Save, size: tuple[int, int]) -> None:
    assert read_photo(save(Image.new("RGB", size))).picture.size == size


def test_a_photo_of_too_many_pixels_is_one_sentence(save: Save) -> None:
    with pytest.raises(UserError, match="4100 x 4100 px; choose one of at most 16 megapixels"):
        read_photo(save(Image.new("L", (4100, 4100))))
