from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ops.video import FrameReader, MediaError, probe, write_image
from ops.video.image import load_image
from tests.ops.video.media import moving_frames, psnr


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
def test_an_image_is_a_one_frame_source(tmp_path: Path, suffix: str) -> None:
    (frame,) = moving_frames(1, 61, 47)
    path = tmp_path / f"a{suffix}"
    write_image(path, frame)
    info = probe(path)
    assert (info.kind, info.n_frames, info.pts.tolist(), info.time_base) == ("image", 1, [0], Fraction(1))
    assert (info.width, info.height) == (61, 47)
    with FrameReader(info) as reader:
        ((pts, read),) = reader.read(0, 1)
        assert reader.backend == "image"
    assert pts == 0 and read.shape == frame.shape and read.flags.c_contiguous and read.flags.writeable
    if suffix in (".jpg", ".jpeg"):
        assert psnr(read, frame) > 38
    else:
        assert np.array_equal(read, frame)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    (frame,) = moving_frames(1, 60, 40)
    image = Image.fromarray(frame)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    image.save(path, exif=exif.tobytes())
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.array_equal(load_image(path).frame, expected)
    assert probe(path).height == expected.shape[0]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    (frame,) = moving_frames(1, 32, 24)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(frame).convert(mode).save(path)
    assert load_image(path).frame.shape == (24, 32, 3)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    frame = load_image(tmp_path / "a.png").frame
    assert np.abs(frame[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_profile_and_exif_go_with_an_edit_and_orientation_does_not(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (frame,) = moving_frames(1, 60, 40)
    image = Image.fromarray(frame)
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    image.save(tmp_path / "a.jpg", exif=exif.tobytes(), icc_profile=profile)
    upright = load_image(tmp_path / "a.jpg").frame
    write_image(tmp_path / "b.jpg", upright, like=tmp_path / "a.jpg")
    assert load_image(tmp_path / "b.jpg").frame.shape == upright.shape == (60, 40, 3)
    with Image.open(tmp_path / "b.jpg") as copy:
        assert copy.info["icc_profile"] == profile
        assert copy.getexif()[0x010F] == "Maker" and copy.getexif()[0x0112] == 1


def test_bad_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (frame,) = moving_frames(1, 200, 150)
    write_image(tmp_path / "whole.jpg", frame)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    pages = [Image.fromarray(frame), Image.fromarray(frame)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    for name, words in [("text.jpg", "not an image"), ("cut.jpg", "cannot be decoded"), ("pages.tif", "2 pictures")]:
        with pytest.raises(MediaError, match=words):
            probe(tmp_path / name)


def test_writing_is_checked_and_atomic(tmp_path: Path) -> None:
    (frame,) = moving_frames(1, 32, 24)
    with pytest.raises(MediaError, match=r"\.gif"):
        write_image(tmp_path / "a.gif", frame)
    for wrong in (frame.astype(np.float32), frame[..., 0], frame[:0]):
        with pytest.raises(ValueError, match="expected a uint8 frame"):
            write_image(tmp_path / "a.png", wrong)
    assert list(tmp_path.iterdir()) == []
