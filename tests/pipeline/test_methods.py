"""Every method goes through the same store and the same two jobs; a further edit of any of them runs no encoder."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import safetensors.torch
import torch

from jobs.common.prepare import open_store
from ops.checkpoints.bundle import Bundle, open_bundle, open_method
from ops.files.errors import CheckpointError
from ops.inversion.inverter import Inverter
from ops.inversion.methods import Method
from ops.inversion.session import Session
from pipeline.engine.stage import Source
from pipeline.store.columns import residuals_from_table, residuals_table
from tests import tiny
from tests.ops.video.media import decode_all

METHODS: tuple[Method, ...] = get_args(Method)
KEEPS_NOTHING = ("e4e", "psp", "restyle")
ENCODERS = ("encoder.", "alignment.", "extraction.", "hypernet.", "inverter.", "fuser.")
"""Prefixes of what reads pictures. HFGI's `alignment.` reads the edited one, so there it stays."""


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    chosen: Method = request.param
    return chosen


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return tiny.source_of(tiny.marked_clip(tmp_path_factory.mktemp("short") / "clip.mp4", 9))


def crops(count: int, seed: int = 0) -> np.ndarray:
    smooth = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return smooth.repeat(8, axis=1).repeat(8, axis=2)


def moved(wplus_NLD: np.ndarray) -> np.ndarray:
    return (wplus_NLD + 0.5 * np.random.default_rng(1).normal(size=wplus_NLD.shape[1:])).astype(np.float32)


def test_what_is_stored_is_all_that_an_edit_needs(tmp_path: Path, method: Method) -> None:
    """Through Parquet and a model without encoders: the float32 codec gives the direct edit's bits, and float16 nearly."""
    bundle = tiny.tiny_bundle(tmp_path / method, method=method)
    whole = Session(bundle.load(), device="cpu", precision="fp32", batch_size=4)
    wplus_NLD, detail = whole.invert(crops(4))
    direct = whole.generate_levels(moved(wplus_NLD), detail)
    assert (detail is None) == (method in KEEPS_NOTHING) == (bundle.config.detail_shape is None)
    assert np.abs(direct - whole.generate_levels(wplus_NLD, detail)).max() > 2, "the premise: the edit is seen"
    half = Session(bundle.load("generate"), device="cpu", precision="fp32", batch_size=4)
    if detail is None:
        np.testing.assert_array_equal(half.generate_levels(moved(wplus_NLD), None), direct)
        return
    assert detail.shape[1:] == bundle.residual_shape
    other = whole.generate_levels(moved(wplus_NLD), np.roll(detail, 1, axis=0))
    assert np.abs(direct - other).max() > 2, "the premise: what is kept matters"
    for codec in ("float32", "float16"):
        store = open_store(tmp_path / f"store-{codec}", bundle, codec)  # type: ignore[arg-type]
        rows = residuals_table("a" * 16, 0, np.arange(4), detail, codec)  # type: ignore[arg-type]
        store.write_part("residuals", "a" * 16, 0, rows)
        kept = residuals_from_table(store.read("residuals", "a" * 16))
        again = half.generate_levels(moved(wplus_NLD), kept)
        if codec == "float32":
            np.testing.assert_array_equal(again, direct)
        else:
            assert np.abs(again - direct).max() < 0.02 * np.abs(direct).max()


def test_the_halves_share_the_generator_and_nothing_else(tmp_path: Path, method: Method) -> None:
    bundle = tiny.tiny_bundle(tmp_path / method, method=method)
    inverting, generating = bundle.load("invert"), bundle.load("generate")
    names = [set(model.state_dict()) for model in (inverting, generating)]
    shared = {name.split(".")[0] for name in names[0] & names[1]}
    # HyperStyle's code has a part in the generator's weights; the light model draws a face once to know its error.
    more = {"hyperstyle": {"deltas"}, "styleres_light": {"transform", "basis"}}.get(method, set())
    assert shared == {"generator", "latent_avg"} | more
    assert names[0] | names[1] == set(bundle.load().state_dict())
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="parts='invert'"):
        generating.invert(images)
    if method in ("styleres", "hfgi", "sfe"):
        found = inverting.invert(images)
        with pytest.raises(ValueError, match="parts='generate'"):
            inverting.generate(found.wplus_NLD, found.detail)


def test_a_detail_that_is_missing_is_said(tmp_path: Path, method: Method) -> None:
    model = tiny.tiny_bundle(tmp_path / method, method=method).load("generate")
    if method not in KEEPS_NOTHING:
        with pytest.raises(ValueError, match="beside W\\+, got None"):
            model.generate(torch.zeros(1, 8, tiny.WIDTH), None)


def test_batches_and_reduced_precision(tmp_path: Path, method: Method) -> None:
    """A face has the same bits at every place of a batch; bf16 gives nearly the same picture."""
    model = tiny.tiny_bundle(tmp_path / method, method=method).load()
    session = Session(model, device="cpu", precision="fp32", batch_size=3)
    faces = crops(5)
    codes, details = session.invert(faces)
    for n in (0, 4):
        code, detail = session.invert(faces[n : n + 1])
        np.testing.assert_array_equal(code[0], codes[n])
        assert detail is None or (detail[0] == details[n]).all()  # type: ignore[index]
    full = session.generate_levels(codes, details)
    reduced = Session(model, device="cpu", precision="bf16", batch_size=3)
    rough = reduced.generate_levels(*reduced.invert(faces))
    assert 0 < np.abs(rough - full).mean() < 0.1 * full.std() + 1


@pytest.mark.parametrize("method", ["psp", "restyle", "hfgi", "hyperstyle", "sfe"])
def test_a_clip_goes_through_both_jobs(tmp_path: Path, clip: Source, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second edit comes from a bundle without one weight of an encoder, and never calls `invert`."""
    bundle = tiny.tiny_bundle(tmp_path / "bundle", method=method)
    store, inverting = tiny.inverted(tmp_path / "store", [clip], bundle)
    assert not inverting.lost and len(store.read("latents")) == 18
    assert len(store.read("residuals")) == (0 if method in KEEPS_NOTHING else 18)
    (first,), rendering = tiny.rendered(tmp_path / "first", store, [clip], bundle, "warm=1")
    assert not rendering.lost and rendering.counts["edits"] == 18

    def refused(self: Inverter, images: torch.Tensor) -> None:
        raise AssertionError("a render inverted")

    monkeypatch.setattr(type(bundle.load("generate")), "invert", refused)
    without_encoders(bundle, method)
    # Other bytes are another model, which a render refuses; this one's generator is the same.
    monkeypatch.setattr(Bundle, "digest", store.info.model_digest)
    (again,), _ = tiny.rendered(tmp_path / "again", store, [clip], bundle, "warm=1")
    assert again.read_bytes() == first.read_bytes()
    (other,), _ = tiny.rendered(tmp_path / "other", store, [clip], bundle, "cold=1")
    pairs = zip(decode_all(again)[1], decode_all(other)[1], strict=True)
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs) > 2


def without_encoders(bundle: Bundle, method: Method) -> None:
    """Take them out of the file."""
    path = bundle.path / "weights.safetensors"
    weights = safetensors.torch.load_file(path)
    gone = tuple(prefix for prefix in ENCODERS if (method, prefix) != ("hfgi", "alignment."))
    kept = tiny.without(weights, *gone)
    assert len(kept) < len(weights)
    safetensors.torch.save_file(kept, path)


# ------------------------------------------------------------------------------------------------------------- --method


def test_method_picks_from_a_folder_of_bundles(tmp_path: Path) -> None:
    for name in ("hfgi", "sfe"):
        tiny.tiny_bundle(tmp_path / "models" / name, method=name)  # type: ignore[arg-type]
    assert open_method(tmp_path / "models", "sfe").method == "sfe"
    assert open_method(tmp_path / "models" / "hfgi", None) == open_bundle(tmp_path / "models" / "hfgi")
    assert open_method(tmp_path / "models" / "hfgi", "hfgi").method == "hfgi"
    with pytest.raises(CheckpointError, match=r"of the methods hfgi, sfe; name one by --method"):
        open_method(tmp_path / "models", None)
    with pytest.raises(CheckpointError, match=r"hfgi, sfe; it has no e4e"):
        open_method(tmp_path / "models", "e4e")
    with pytest.raises(CheckpointError, match=r"a styleres bundle, and --method says hfgi"):
        open_method("mini64", "hfgi")
    with pytest.raises(CheckpointError, match=r"found nothing"):
        open_method("nowhere", None)


def test_a_store_of_one_method_is_not_filled_with_another(tmp_path: Path) -> None:
    from pipeline.store.tables import StoreError

    one, two = (tiny.tiny_bundle(tmp_path / name, method=name) for name in ("e4e", "hfgi"))  # type: ignore[arg-type]
    open_store(tmp_path / "store", one, "float16")
    with pytest.raises(StoreError, match="residual_shape"):
        open_store(tmp_path / "store", two, "float16")
