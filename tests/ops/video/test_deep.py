"""Pictures of more than 8 bits a sample: read right, kept number by number outside the edit, a loss where they cannot be."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ops.video.image import image_items, load_image, write_image

SIZE = (40, 24)
PATCH = (slice(8, 16), slice(12, 26))


def numbers(channels: int) -> np.ndarray:
    """uint16 [24, 40, channels] with all 16 bits in use."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    planes = [x * 1400 + y * 37, y * 2300 + x * 11, 60000 - x * 1201 - y * 13, x * 1600 + 300]
    return np.stack(planes[:channels], axis=2).clip(0, 65535).astype(np.uint16)


def tiff(path: Path, data: bytes, shape: tuple[int, int], **more: Any) -> Path:
    """A TIFF of one strip, written by hand, with `t262=1` for tag 262."""
    tags = ImageFileDirectory_v2()
    tags[256], tags[257], tags[259], tags[278] = shape[1], shape[0], 1, shape[0]
    for key, value in more.items():
        tags[int(key[1:])] = value
    if 273 not in tags:
        tags[273], tags[279] = 0, len(data)
    head = io.BytesIO()
    tags.save(head)
    path.write_bytes(head.getvalue() + data)
    return path


def stored(path: Path, pixels: np.ndarray) -> Path:
    match path.suffix:
        case ".heic":
            mode = "RGB;16" if pixels.shape[2] == 3 else "RGBA;16"
            pillow_heif.from_bytes(mode, SIZE, pixels.tobytes()).save(path, bit_depth=10, quality=-1, chroma=444)
        case ".tif":
            n = pixels.shape[2]
            tiff(path, pixels.tobytes(), pixels.shape[:2], t258=(16,) * n, t262=2, t277=n, **({"t338": 2} if n == 4 else {}))
        case _:
            cv2.imwrite(str(path), pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
    return path


def lighter(frame: np.ndarray) -> np.ndarray:
    made = frame.copy()
    made[PATCH] = (made[PATCH].astype(int) + 30).clip(0, 255)
    return made


def read(path: Path) -> np.ndarray:
    """By OpenCV, or by pillow-heif: uint16 [h, w, c]."""
    if path.suffix == ".heic":
        return np.array(pillow_heif.open_heif(path, convert_hdr_to_8bit=False))
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found.ndim == 3 and found.shape[2] == 4 and path.suffix == ".tif":  # OpenCV multiplies its colours by its alpha
        with av.open(str(path)) as container:
            return next(container.decode(video=0)).to_ndarray(format="rgba64le")
    return found if found.ndim == 2 else found[..., [2, 1, 0, 3][: found.shape[2]]]


@pytest.mark.parametrize(
    ("suffix", "channels"), [(".png", 3), (".png", 4), (".tif", 3), (".tif", 4), (".ppm", 3), (".heic", 3)]
)
def test_colour_of_sixteen_bits_stays_number_by_number(tmp_path: Path, suffix: str, channels: int) -> None:
    """It became 8 bits, without a word."""
    path = stored(tmp_path / f"a{suffix}", numbers(channels))
    image = load_image(path)
    if suffix == ".heic":
        assert dict(image.heif)["chroma"] == 444
    assert image.kind == ("RGB;16" if channels == 3 else "RGBA;16") and image.bits == (10 if suffix == ".heic" else 16)
    before = read(path)
    assert np.abs(image.frame.astype(int) - before[..., :3] / 257)[before[..., -1] > 0].max() <= 0.51
    write_image(tmp_path / f"b{suffix}", lighter(image.frame), like=path)
    after = read(tmp_path / f"b{suffix}")
    assert after.dtype == np.uint16 and after.shape == before.shape
    outside = np.ones(before.shape[:2], bool)
    outside[PATCH] = False
    apart = np.abs(after.astype(int) - before)[outside]
    assert apart.max() == 0 if suffix != ".heic" else np.median(apart) < 257, "HEIC is coded with loss"
    change = (after[PATCH].astype(int) - before[PATCH])[..., :3].mean() / 257
    assert 24 < change <= 30.5
    assert not any(loss for *_, loss in image_items(image.facts, suffix))
    if channels == 4:
        assert np.array_equal(after[..., 3], before[..., 3])


def test_metadata_travels_with_sixteen_bits(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.png", numbers(3))
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "Maker", 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    small = io.BytesIO()
    Image.fromarray(numbers(3).astype(np.uint8)).save(small, "PNG", exif=exif, icc_profile=profile)
    from ops.video.deep import _with_pixels_of

    path.write_bytes(_with_pixels_of(small.getvalue(), path.read_bytes()))
    frame = load_image(path).frame
    assert frame.shape == (SIZE[0], SIZE[1], 3), "upright"
    for suffix in (".png", ".tif", ".heic"):
        write_image(tmp_path / f"b{suffix}", frame, like=path)
        assert read(tmp_path / f"b{suffix}").dtype == np.uint16
        with Image.open(tmp_path / f"b{suffix}") as made:
            assert made.getexif()[ExifTags.Base.Make] == "Maker" and made.info["icc_profile"] == profile
            assert made.getexif().get(ExifTags.Base.Orientation, 1) == 1
            assert made.size == (SIZE[1], SIZE[0])


def test_planar_tiff_is_read_right(tmp_path: Path) -> None:
    """Pillow's numbers of it were nobody's, and the exit code was 0."""
    pixels = numbers(3)
    plane = pixels[..., 0].nbytes
    more: dict[str, Any] = {"t258": (16,) * 3, "t262": 2, "t277": 3, "t284": 2, "t279": (plane,) * 3}
    offsets = tuple(place * plane for place in range(3))  # from the end of the directory
    path = tiff(tmp_path / "a.tif", pixels.transpose(2, 0, 1).tobytes(), pixels.shape[:2], t273=offsets, **more)
    image = load_image(path)
    assert image.kind == "RGB;16" and np.array_equal(image.deep, pixels)


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_in_any_depth(tmp_path: Path, bits: int) -> None:
    """Pillow turns the numbers over in 8 bits only: a negative was edited and written as if it were the picture."""
    grey = numbers(1)[..., 0] if bits == 16 else (numbers(1)[..., 0] >> 8).astype(np.uint8)
    turned = (65535 if bits == 16 else 255) - grey
    path = tiff(tmp_path / "a.tif", turned.tobytes(), grey.shape, t258=bits, t262=0, t277=1)
    image = load_image(path)
    assert np.abs(image.frame[..., 0].astype(int) - grey / (257 if bits == 16 else 1)).max() <= 0.5
    write_image(tmp_path / "b.tif", image.frame, like=path)
    assert np.array_equal(read(tmp_path / "b.tif"), grey)


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.png", ".jpg"), ("a.tif", ".webp"), ("a.png", ".avif"), ("a.tif", ".heic"), ("ink.tif", ".tif")]
)
def test_fewer_bits_are_a_loss_that_says_so(tmp_path: Path, name: str, suffix: str) -> None:
    if name == "ink.tif":
        four = numbers(4)
        path = tiff(tmp_path / name, four.tobytes(), four.shape[:2], t258=(16,) * 4, t262=5, t277=4)
    else:
        path = stored(tmp_path / name, numbers(3))
    (said,) = [item for item in image_items(load_image(path).facts, suffix) if item[3]]
    assert said[0] == "16 bits a sample" and said[2].startswith("to 12" if suffix == ".heic" else "to 8")
    write_image(tmp_path / f"b{suffix}", load_image(path).frame, like=path)


def test_a_colour_that_means_nothing_in_sixteen_bits_is_transparency(tmp_path: Path) -> None:
    grey = numbers(1)[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=int(grey[3, 4]))
    image = load_image(tmp_path / "a.png")
    assert image.alpha is not None and image.alpha[3, 4] == 0 and (image.alpha == 255).sum() >= image.alpha.size - 5
    write_image(tmp_path / "b.png", lighter(image.frame), like=tmp_path / "a.png")
    after = read(tmp_path / "b.png")
    assert after[3, 4, 3] == 0 and after[0, 0, 0] == grey[0, 0]


def test_further_photographs_of_a_file_are_a_loss(tmp_path: Path) -> None:
    one = Image.fromarray((numbers(3) >> 8).astype(np.uint8))
    one.save(tmp_path / "a.heic", save_all=True, append_images=[one.rotate(180)])
    one.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[one.resize((8, 8))])
    assert [item[0] for item in image_items(load_image(tmp_path / "a.heic").facts, ".heic") if item[3]] == [
        "1 further photographs"
    ]
    previews = [item for item in image_items(load_image(tmp_path / "a.jpg").facts, ".jpg") if "further" in item[0]]
    assert [(what, loss) for what, _, _, loss in previews] == [("1 further pictures", False)]
