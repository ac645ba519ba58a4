"""Every kind of picture that Pillow opens, through an edit, into every format: readable by two readers, upright, right colours.

OpenCV is the second reader. The stand-in for an edit makes a patch lighter; everything outside it must look as it did.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from ops.video.errors import MediaError
from ops.video.image import FORMAT_OF_SUFFIX, LoadedImage, image_items, kind_in, load_image, write_image
from ops.video.probe import probe
from tests import needs

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"]
SUFFIXES = [".tif", ".png", ".jpg", ".webp"]
SIZE = (48, 32)
PATCH = (slice(10, 22), slice(18, 32))


def picture(mode: str) -> Image.Image:
    """Smooth colours with a red corner top left and a blue one bottom left, in a mode."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    rgb = np.stack([60 + 2 * x, 80 + 3 * y, 150 - x - y], axis=2).clip(0, 255).astype(np.uint8)
    rgb[:8, :8], rgb[-8:, :8] = (210, 40, 40), (40, 40, 210)
    colour = Image.fromarray(rgb)
    alpha = Image.fromarray((5 * x).clip(0, 255).astype(np.uint8))
    match mode:
        case "I;16" | "I;16B":
            grey = np.asarray(colour.convert("L")).astype(np.uint16) * 257 + 3
            return Image.fromarray(grey).convert("I;16") if mode == "I;16" else Image.fromarray(grey.astype(">u2"), "I;16B")
        case "I":
            return Image.fromarray(np.asarray(colour.convert("L")).astype(np.int32))
        case "F":
            return Image.fromarray(np.asarray(colour.convert("L")).astype(np.float32) / 255.0)
        case "LA" | "RGBA":
            made = colour.convert("L" if mode == "LA" else "RGB")
            made.putalpha(alpha)
            return made
        case "PA":
            made = colour.quantize(64).convert("PA")
            made.putalpha(alpha)
            return made
        case "P":
            return colour.quantize(64)
        case "LAB":
            return ImageCms.profileToProfile(
                colour, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
            )
        case _:
            return colour.convert(mode)


def stored(mode: str, folder: Path, **options: object) -> Path | None:
    """A file of that mode, in the first format that takes it; None where Pillow writes none."""
    for suffix in (".tif", ".png", ".jpg"):
        path = folder / f"source{suffix}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture(mode).save(path, **options)
                with Image.open(path) as made:
                    if made.mode == mode or (mode.startswith("I;16") and made.mode.startswith("I;16")):
                        return path
        except (OSError, KeyError, ValueError):
            continue
    return None


def lighter(image: LoadedImage) -> np.ndarray:
    frame = image.frame.copy()
    frame[PATCH] = (frame[PATCH].astype(int) + 40).clip(0, 255).astype(np.uint8)
    return frame


def looked_at(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Upright RGB by Pillow alone, and by OpenCV."""
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            grey = (np.asarray(upright).astype(float) / 257).round().astype(np.uint8)
            by_pillow = np.repeat(grey[..., None], 3, axis=2)
        elif upright.mode in ("I", "F"):  # which viewers show by their own ideas of white
            white = 255 if upright.mode == "I" else 1.0
            found = (np.asarray(upright), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
            one, other = (np.repeat((grey * (255 / white)).round().astype(np.uint8)[..., None], 3, axis=2) for grey in found)
            return one, other
        else:
            by_pillow = np.asarray(upright.convert("RGBA").convert("RGB"))
    data = np.frombuffer(path.read_bytes(), np.uint8)
    found = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert found is not None, f"OpenCV cannot read {path.name}"
    if found.ndim == 3 and found.shape[2] == 4:
        if path.suffix == ".tif":  # OpenCV multiplies its colours by its alpha; FFmpeg gives them as they are
            with av.open(str(path)) as container:
                return by_pillow, next(container.decode(video=0)).to_ndarray(format="rgba")[..., :3]
        return by_pillow, found[..., 2::-1]
    return by_pillow, cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", MODES)
def test_a_copy_is_readable_by_two_readers_with_the_right_colours(tmp_path: Path, mode: str, suffix: str) -> None:
    """The source's structural tags went into the copy, which nobody could read, and the exit code was 0."""
    path = stored(mode, tmp_path)
    if path is None:
        pytest.skip(f"Pillow writes no file of mode {mode}")
    image = load_image(path)
    expected = image.frame
    write_image(tmp_path / f"copy{suffix}", lighter(image), like=path)
    loose = suffix == ".jpg"
    outside = np.ones(expected.shape[:2], bool)
    outside[max(PATCH[0].start - 8, 0) : PATCH[0].stop + 8, max(PATCH[1].start - 8, 0) : PATCH[1].stop + 8] = False
    if image.alpha is not None:
        outside &= image.alpha > 0  # what is under full transparency nobody sees; it stays as it was stored
    for found in looked_at(tmp_path / f"copy{suffix}"):
        assert found.shape == expected.shape
        apart = np.abs(found.astype(int) - expected)
        assert apart[outside].max() <= (24 if loose else 2), f"{mode} in {suffix}: colours outside the patch"
        assert (found[PATCH].astype(int) - expected[PATCH]).mean() > 20, "the edit is there"
    again = load_image(tmp_path / f"copy{suffix}")
    assert again.kind == kind_in(image.kind, FORMAT_OF_SUFFIX[suffix])
    if image.alpha is not None and again.alpha is not None:
        assert np.array_equal(again.alpha, image.alpha)
        if image.hidden is not None:
            assert again.hidden is not None
            assert np.array_equal(again.hidden[image.alpha == 0], image.hidden[image.alpha == 0])
    if image.deep is not None and again.deep is not None:
        assert np.array_equal(again.deep[outside], image.deep[outside]), "every stored number"
    depth = [loss for what, _, _, loss in image_items(image.facts, suffix) if "bits a sample" in what]
    assert depth == ([True] if image.deep is not None and again.deep is None else []), "fewer bits are a loss"
    assert again.own, "a later run knows it for a result"
    transparency = [item for item in image_items(image.facts, suffix) if item[0] == "transparency"]
    assert bool(transparency) == (image.alpha is not None)
    if transparency:
        assert transparency[0][1] == ("kept" if again.alpha is not None else "dropped")
        assert transparency[0][3] == (again.alpha is None), "dropping what was to be seen is a loss"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("source", [".jpg", ".tif", ".png", ".webp"])
def test_a_copy_is_upright_once(tmp_path: Path, source: str, orientation: int, suffix: str) -> None:
    """A TIFF was turned twice."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Maker"
    path = tmp_path / f"a{source}"
    options = {"quality": 100, "subsampling": 0} if source == ".jpg" else {"lossless": True} if source == ".webp" else {}
    picture("RGB").save(path, exif=exif.tobytes(), **options)
    with Image.open(path) as image:
        image.load()
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    frame = load_image(path).frame
    assert np.abs(frame.astype(int) - upright).max() <= 1
    write_image(tmp_path / f"b{suffix}", frame, like=path)
    for found in looked_at(tmp_path / f"b{suffix}"):
        assert found.shape == upright.shape and np.abs(found.astype(int) - upright).mean() < 6
    with Image.open(tmp_path / f"b{suffix}") as made:
        assert made.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert made.getexif()[ExifTags.Base.Make] == "Maker"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
def test_what_describes_the_picture_travels_and_what_describes_the_file_does_not(
    tmp_path: Path, source: str, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Copyright] = "Maker", "Somebody"
    exif[ExifTags.Base.DateTime] = "2024:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif)[0x9003] = "2024:01:01 00:00:00"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[2] = (48.0, 30.0, 0.0)
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><r tiff:Orientation=\"6\"/></x:xmpmeta>"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"a{source}"
    options: dict[str, object] = {"icc_profile": profile}
    if source in (".jpg", ".webp"):
        options["xmp"] = xmp
    if source == ".tif":
        from PIL.TiffImagePlugin import ImageFileDirectory_v2

        directory = ImageFileDirectory_v2()
        directory[271], directory[33432], directory[306] = "Maker", "Somebody", "2024:01:02 03:04:05"
        directory[34665], directory[34853] = {0x9003: "2024:01:01 00:00:00"}, {1: "N", 2: (48.0, 30.0, 0.0)}
        directory.tagtype[700] = 1
        directory[700] = xmp
        options["tiffinfo"] = directory
    else:
        options["exif"] = exif.tobytes()
    picture("RGB").save(path, **options)
    write_image(tmp_path / f"b{suffix}", load_image(path).frame, like=path)
    with Image.open(tmp_path / f"b{suffix}") as made:
        found = made.getexif()
        assert found[ExifTags.Base.Make] == "Maker" and found[ExifTags.Base.Copyright] == "Somebody"
        assert found.get_ifd(ExifTags.IFD.Exif)[0x9003] == "2024:01:01 00:00:00"
        assert found.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
        assert [float(v) for v in found.get_ifd(ExifTags.IFD.GPSInfo)[2]] == [48.0, 30.0, 0.0]
        assert made.info["icc_profile"] == profile
        if source in (".jpg", ".webp", ".tif"):
            told = made.info.get("xmp") or made.info.get("XML:com.adobe.xmp")
            told = told.encode() if isinstance(told, str) else told
            assert b'Orientation="6"' not in told and b"xmpmeta" in told, "the pixels are upright now"
    assert looked_at(tmp_path / f"b{suffix}")


def test_a_profile_of_another_kind_converts_the_pixels_or_stays_with_its_own(tmp_path: Path) -> None:
    """A CMYK or grey profile went onto RGB pixels."""
    grey = bytes.fromhex("")
    path = needs.shared("cases/grayicc.jpg")
    with Image.open(path) as image:
        grey = image.info["icc_profile"]
        before = np.asarray(image.convert("L")).astype(int)
    write_image(tmp_path / "grey.jpg", load_image(path).frame, like=path)
    with Image.open(tmp_path / "grey.jpg") as made:
        assert made.mode == "L" and made.info["icc_profile"] == grey
        assert np.abs(np.asarray(made).astype(int) - before).mean() < 2
    write_image(tmp_path / "grey.webp", load_image(path).frame, like=path)
    with Image.open(tmp_path / "grey.webp") as made:
        space = ImageCms.getOpenProfile(io.BytesIO(made.info["icc_profile"])).profile.xcolor_space.strip()
        assert space == "RGB"
    ink = needs.shared("cases/cmyk.jpg")
    with Image.open(ink) as image:
        target = ImageCms.createProfile("sRGB")
        right = np.asarray(ImageCms.profileToProfile(image, io.BytesIO(image.info["icc_profile"]), target, outputMode="RGB"))
    write_image(tmp_path / "ink.png", load_image(ink).frame, like=ink)
    for found in looked_at(tmp_path / "ink.png"):
        assert np.abs(found.astype(int) - right).max() <= 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bigtiff.tif", "RGB"), ("cmyk.jpg", "RGB"), ("cmyk.tif", "RGB"), ("exif6.tif", "RGB"), ("exif_unit_bad.jpg", "RGB"),
        ("exififd.tif", "RGB"), ("face.avif", "RGB"), ("face.jfif", "RGB"), ("face.ppm", "RGB"), ("g16.tif", "I;16"),
        ("gray.tif", "L"), ("grayicc.jpg", "L"), ("grid.heic", "RGB"), ("group24.png", "RGB"), ("palette.tif", "RGB"),
        ("rgba.png", "RGBA"), ("rgba.tif", "RGBA"), ("rgba.webp", "RGBA"), ("single.heic", "RGB"),
    ],
)  # fmt: skip
def test_every_still_of_the_cases_comes_out_as_it_went_in(tmp_path: Path, name: str, kind: str) -> None:
    path = needs.shared(f"cases/{name}")
    info = probe(path)
    assert info.kind == "image", "a tile grid is one photograph, and no video of its first tile"
    image = load_image(path)
    assert image.kind == kind
    out = tmp_path / f"copy{path.suffix}"
    write_image(out, image.frame, like=path)
    again = load_image(out)
    assert again.kind == kind and again.frame.shape == image.frame.shape
    apart = np.abs(again.frame.astype(int) - image.frame)
    lossy = FORMAT_OF_SUFFIX[path.suffix] in ("JPEG", "HEIF", "AVIF")
    assert apart.mean() < 2 if lossy else apart.max() == 0
    if image.alpha is not None:
        assert np.array_equal(again.alpha, image.alpha)
    if name in ("grid.heic", "single.heic"):
        assert image.frame.shape == (720, 960, 3)


def test_a_damaged_file_is_a_sentence_whatever_pillow_raises(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be decoded: Missing dimensions"):
        load_image(needs.shared("cases/broken_dims.tif"))
    rng = np.random.default_rng(0)
    whole = {}
    for suffix in (".png", ".jpg", ".tif", ".webp", ".bmp", ".jp2", ".ppm", ".avif"):
        picture("RGB").save(tmp_path / f"whole{suffix}")
        whole[suffix] = (tmp_path / f"whole{suffix}").read_bytes()
    for suffix, data in whole.items():
        for trial in range(25):
            broken = bytearray(data[: rng.integers(8, len(data))] if trial % 2 else data)
            for at in rng.integers(0, min(len(broken), 400), 6):
                broken[at] = rng.integers(0, 256)
            path = tmp_path / f"broken{suffix}"
            path.write_bytes(bytes(broken))
            try:
                frame = load_image(path).frame
            except MediaError:
                continue
            assert frame.dtype == np.uint8 and frame.ndim == 3
