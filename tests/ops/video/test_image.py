from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ops.video import FrameReader, MediaError, probe, write_image
from ops.video.deep import colour_chunks
from ops.video.image import encoded_image, image_items, load_image
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


def png_with(path: Path, *chunks: tuple[bytes, bytes]) -> Path:
    from PIL import PngImagePlugin

    told = PngImagePlugin.PngInfo()
    for name, data in chunks:
        told.add(name, data)
    Image.fromarray(moving_frames(1, 32, 24)[0]).save(path, pnginfo=told)
    return path


@pytest.mark.parametrize(
    ("name", "data", "srgb"),
    [
        (b"gAMA", struct.pack(">I", 100000), False),  # linear light
        (b"gAMA", struct.pack(">I", 45455), True),
        (b"cICP", bytes((12, 13, 0, 1)), False),  # Display P3
        (b"sRGB", b"\0", True),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), False),
    ],
)
def test_what_a_png_says_of_its_colours_goes_with_it(tmp_path: Path, name: bytes, data: bytes, srgb: bool) -> None:
    """They were dropped in silence: a picture of linear light came out far too dark."""
    source = load_image(png_with(tmp_path / "a.png", (name, data)))
    made = encoded_image("b.png", source.frame, like=source)
    assert colour_chunks(made) == ((name.decode(), data),)
    what = f"colour of the PNG ({name.decode()})"
    assert (what, "kept", "", False) in list(image_items(source.facts, ".png"))
    (lost,) = [loss for said, fate, _, loss in image_items(source.facts, ".jpg") if said == what and fate == "dropped"]
    assert lost is not srgb


def test_colours_of_a_deep_png_go_with_it(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (24, 32, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    data = (tmp_path / "a.png").read_bytes()
    chunk = struct.pack(">I", 4) + b"cICP" + bytes((9, 16, 0, 1))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:])
    source = load_image(tmp_path / "a.png")
    assert source.kind == "RGB;16" and colour_chunks(encoded_image("b.png", source.frame, like=source)) == (
        ("cICP", bytes((9, 16, 0, 1))),
    )


@pytest.mark.parametrize("suffix", [".ico", ".dds", ".pcx", ".sgi", ".gif", ".qoi"])
def test_a_picture_of_any_format_is_a_picture(tmp_path: Path, suffix: str) -> None:
    """FFmpeg shows them as videos of one frame, and they became an mp4."""
    Image.fromarray(moving_frames(1, 64, 64)[0]).convert("P" if suffix in (".pcx", ".gif") else "RGB").save(
        tmp_path / f"a{suffix}"
    )
    info = probe(tmp_path / f"a{suffix}")
    assert (info.kind, info.width, info.height) == ("image", 64, 64)


def test_an_animated_png_is_a_video_with_its_times(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(frame) for frame in moving_frames(4, 64, 48))
    first.save(tmp_path / "a.png", save_all=True, append_images=others, duration=[40, 80, 120, 40])
    info = probe(tmp_path / "a.png")
    assert info.kind == "video" and [float(t * info.time_base) for t in info.pts] == pytest.approx([0, 0.04, 0.12, 0.24])
    with FrameReader(info) as reader:
        assert np.array_equal(next(iter(reader.read(3, 4)))[1], np.asarray(others[-1]))


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".tif"])
def test_several_pictures_in_a_file_are_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    first, *others = (Image.fromarray(frame) for frame in moving_frames(3, 64, 48))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=others)
    with pytest.raises(MediaError, match="split it" if suffix == ".tif" else "save it as a video or an animated PNG"):
        probe(tmp_path / f"a{suffix}")


def test_a_moving_photograph_is_one_without_its_video(tmp_path: Path) -> None:
    """Its copy said that it had a video, which it had not."""
    told = b'GCamera:MotionPhoto="1" GCamera:MicroVideo="1" hdrgm:Version="1.0"'
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description ' + told + b"/></x:xmpmeta>"
    image = Image.fromarray(moving_frames(1, 64, 48)[0])
    image.save(tmp_path / "a.jpg", xmp=xmp)
    still = load_image(tmp_path / "a.jpg")
    assert not [what for what, _ in still.facts.dropped if "moving" in what]
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"MotionPhoto_Data\0\0\0\x18ftypmp42" + bytes(100))
    source = load_image(tmp_path / "a.jpg")
    assert [what for what, _ in source.facts.dropped] == ["moving photograph"]
    made = encoded_image("b.jpg", source.frame, like=source)
    assert b'MotionPhoto="0"' in made and b'MicroVideo="0"' in made and b"hdrgm:Version" not in made and b"ftyp" not in made


def test_a_text_does_not_cost_the_picture(tmp_path: Path) -> None:
    """Pillow refuses a PNG for a compressed text of more than 1 MiB."""
    from PIL import PngImagePlugin

    told = PngImagePlugin.PngInfo()
    told.add_text("workflow", "a" * 2_000_000, zip=True)
    (frame,) = moving_frames(1, 32, 24)
    Image.fromarray(frame).save(tmp_path / "a.png", pnginfo=told)
    image = load_image(tmp_path / "a.png")
    assert np.array_equal(image.frame, frame) and ("texts", "they are longer than Pillow reads") in image.facts.dropped


def test_layers_are_one_picture_and_a_pdf_is_none(tmp_path: Path) -> None:
    (frame,) = moving_frames(1, 32, 24)
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 24, 32, 8, 3) + bytes(12) + b"\0\0"
    (tmp_path / "a.psd").write_bytes(head + frame.transpose(2, 0, 1).tobytes())
    assert np.array_equal(load_image(tmp_path / "a.psd").frame, frame) and probe(tmp_path / "a.psd").kind == "image"
    Image.fromarray(frame).save(tmp_path / "a.pdf")
    with pytest.raises(MediaError, match="not a media file"):
        probe(tmp_path / "a.pdf")
