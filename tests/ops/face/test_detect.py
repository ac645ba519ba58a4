"""Both detectors on real faces; the coordinates they give; what is said when they cannot be built."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ops.face.align import crop_face, ffhq_quad
from ops.face.detect import (
    ARCFACE_TEMPLATE_52,
    Detector,
    DetectorError,
    DetectorSettings,
    Face,
    box_overlap,
    build_detector,
    decode_centerface,
    resolve_detector_device,
    similarity_between,
    upright_misfit,
)
from tests.ops.face.media import face_at, read_clip

MIRRORED = [1, 0, 2, 4, 3]


def settings_for(kind: str, shared: Path, **more: object) -> DetectorSettings:
    root = str(shared / "models/insightface_root")
    return DetectorSettings(kind=kind, pack="face_default", root=root, threads=1, **more)  # type: ignore[arg-type]


@pytest.fixture(params=["centerface", "insightface"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def detector(kind: str, shared: Path) -> Detector:
    return build_detector(settings_for(kind, shared))


def interocular(face: Face) -> float:
    return float(np.linalg.norm(face.landmarks_52[1] - face.landmarks_52[0]))


def test_one_face_two_faces_no_face(detector: Detector, shared_videos: Path) -> None:
    counts = {
        clip: [len(detector.detect(frame)) for frame in read_clip(shared_videos / clip)[::30]]
        for clip in ("carphone_176x144.mp4", "two_faces_960x480.mp4", "noface_car_3s.mp4")
    }
    assert counts == {
        "carphone_176x144.mp4": [1] * 4,
        "two_faces_960x480.mp4": [2] * 4,
        "noface_car_3s.mp4": [0] * 2,
    }


def test_faces_are_well_formed_and_sorted(detector: Detector, kind: str, shared_videos: Path) -> None:
    frame = read_clip(shared_videos / "hamilton_multi_cuts_audio.mp4", stop=250)[240]
    faces = detector.detect(frame)
    assert len(faces) >= 4
    assert [f.score for f in faces] == sorted((f.score for f in faces), reverse=True)
    for face in faces:
        x0, y0, x1, y1 = face.box_xyxy
        assert min(x1 - x0, y1 - y0) >= 24
        left_eye, right_eye, _, mouth_left, mouth_right = face.landmarks_52
        assert left_eye[1] < mouth_left[1] and right_eye[1] < mouth_right[1]
        if kind == "centerface":
            assert face.embedding is None
        else:
            assert face.embedding is not None and face.embedding.dtype == np.float32
            assert np.linalg.norm(face.embedding) == pytest.approx(1.0, abs=1e-5)


def test_the_two_detectors_agree(shared: Path, shared_videos: Path) -> None:
    frame = read_clip(shared_videos / "lp_s18_720p_camera_pan.mp4", stop=1)[0]
    (a,), (b,) = (build_detector(settings_for(k, shared)).detect(frame) for k in ("centerface", "insightface"))
    assert np.linalg.norm(a.landmarks_52 - b.landmarks_52, axis=1).mean() < 0.12 * interocular(a)
    assert box_overlap(a.box_xyxy[None], b.box_xyxy[None])[0, 0] > 0.6


def test_coordinates_survive_enlarging_the_frame(detector: Detector, shared_videos: Path) -> None:
    """A picture and the reduction of it that the network sees: same faces at the same pixel centres."""
    frame = read_clip(shared_videos / "lp_d18_man_480.mp4", stop=1)[0][:384, 64:448]
    large = cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
    reduced = cv2.resize(large, (640, 640), interpolation=cv2.INTER_AREA)
    (at_640,), (at_large,) = detector.detect(reduced), detector.detect(large)
    scale = 1152 / 640
    np.testing.assert_allclose((at_640.landmarks_52 + 0.5) * scale - 0.5, at_large.landmarks_52, atol=0.01)


def test_coordinates_have_no_half_pixel_of_bias(detector: Detector, shared_videos: Path) -> None:
    """A face and its mirror image: x and W - 1 - x. With corners as origin the mean would be off by 0.5."""
    bias = []
    for frame in read_clip(shared_videos / "hamilton_multi_cuts_audio.mp4")[215:270:6]:
        mirrored = detector.detect(np.ascontiguousarray(frame[:, ::-1]))
        for face in detector.detect(frame):
            there = frame.shape[1] - 1 - face.landmarks_52[MIRRORED, 0]
            gaps = [np.abs(m.landmarks_52[:, 0] - there).max() for m in mirrored]
            if gaps and min(gaps) < 0.25 * interocular(face):
                twin = mirrored[int(np.argmin(gaps))]
                bias.append((face.landmarks_52[:, 0] + twin.landmarks_52[MIRRORED, 0]).mean() / 2 - (frame.shape[1] - 1) / 2)
    assert len(bias) >= 20
    assert abs(np.mean(bias)) < 0.4


def test_a_head_on_its_side_is_cut_upright(kind: str, shared: Path, shared_videos: Path) -> None:
    frame = read_clip(shared_videos / "two_faces_960x480.mp4", stop=1)[0][:, :480]
    lying = np.ascontiguousarray(np.rot90(frame, 1))
    (upright,) = build_detector(settings_for(kind, shared, turns="upright")).detect(frame)
    (turned,) = build_detector(settings_for(kind, shared)).detect(lying)
    # rot90 takes (x, y) to (y, W - 1 - x).
    expected = np.stack([upright.landmarks_52[:, 1], 479 - upright.landmarks_52[:, 0]], axis=1)
    assert np.linalg.norm(turned.landmarks_52 - expected, axis=1).max() < 0.1 * interocular(upright)
    crops = [
        crop_face(f, ffhq_quad(p), 64).astype(float) for f, p in ((frame, upright.landmarks_52), (lying, turned.landmarks_52))
    ]
    assert np.abs(crops[0] - crops[1]).mean() < 8


def test_turning_leaves_upright_faces_alone(kind: str, shared: Path, shared_videos: Path) -> None:
    frame = read_clip(shared_videos / "hamilton_multi_cuts_audio.mp4", stop=220)[218]  # profiles look odd
    auto, plain = (build_detector(settings_for(kind, shared, turns=t)).detect(frame) for t in ("auto", "upright"))
    assert len(auto) == len(plain)
    for a, b in zip(auto, plain, strict=True):
        np.testing.assert_array_equal(a.landmarks_52, b.landmarks_52)


def test_embeddings_tell_people_apart(shared: Path, shared_videos: Path) -> None:
    detector = build_detector(settings_for("insightface", shared))
    early, late = (
        sorted(detector.detect(f), key=lambda face: face.box_xyxy[0])
        for f in read_clip(shared_videos / "two_faces_960x480.mp4")[::100]
    )
    vectors = [[face.embedding for face in faces] for faces in (early, late)]
    same = [float(vectors[0][i] @ vectors[1][i]) for i in (0, 1)]  # type: ignore[operator]
    other = float(vectors[0][0] @ vectors[0][1])  # type: ignore[operator]
    assert min(same) > other + 0.2


def test_settings_limit_what_comes_back(shared: Path, shared_videos: Path) -> None:
    frame = read_clip(shared_videos / "hamilton_multi_cuts_audio.mp4", stop=250)[240]
    all_faces = build_detector(DetectorSettings(threads=1)).detect(frame)
    two = build_detector(DetectorSettings(threads=1, max_faces=2)).detect(frame)
    assert [f.score for f in two] == [f.score for f in all_faces[:2]]
    big = build_detector(DetectorSettings(threads=1, min_face_pixels=50)).detect(frame)
    assert 0 < len(big) < len(all_faces)


def test_an_empty_picture_of_any_size_has_no_face() -> None:
    detector = build_detector(DetectorSettings(threads=1))
    for shape in ((1, 1, 3), (33, 500, 3), (900, 31, 3)):
        assert detector.detect(np.full(shape, 127, np.uint8)) == []


def test_decoding_follows_the_paper() -> None:
    """One cell, row 3, column 5: centre 4 * (index + offset + 0.5), size 4 * exp(s), landmarks in the box."""
    heat, size, offset, points = (np.zeros((1, c, 8, 8), np.float32) for c in (1, 2, 2, 10))
    heat[0, 0, 3, 5] = 0.9
    size[0, :, 3, 5] = np.log([10.0, 5.0])  # h 40, w 20
    offset[0, :, 3, 5] = [0.25, -0.25]  # y, x
    points[0, :, 3, 5] = np.array([[0.3, 0.2], [0.3, 0.8], [0.5, 0.5], [0.75, 0.25], [0.75, 0.7]]).ravel()  # y, x
    boxes, landmarks, scores = decode_centerface(heat, size, offset, points, min_score=0.5)
    np.testing.assert_allclose(boxes, [[21 - 10, 15 - 20, 21 + 10, 15 + 20]], rtol=1e-6)
    np.testing.assert_allclose(landmarks[0], np.array([[15, 7], [27, 7], [21, 15], [16, 25], [25, 25]]), rtol=1e-5)
    assert scores.tolist() == pytest.approx([0.9])


def test_similarity_is_recovered() -> None:
    angle, scale = 0.7, 1.9
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = ARCFACE_TEMPLATE_52 @ turn.T + [12.0, -5.0]
    np.testing.assert_allclose(similarity_between(ARCFACE_TEMPLATE_52, moved), np.c_[turn, [12.0, -5.0]], atol=1e-9)


def test_misfit_knows_which_way_is_up() -> None:
    upright, tilted, lying = (upright_misfit(face_at(100, 100, 80, angle=a).landmarks_52) for a in (0.0, 0.4, np.pi / 2))
    assert upright < 0.3 and tilted < 0.45 < lying


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DetectorSettings(kind="insightface", pack="nothing_here", root=str(tmp_path))
    with pytest.raises(DetectorError, match=r"nothing_here.*found none.*Nothing is downloaded"):
        build_detector(settings)
    (tmp_path / "models/nothing_here").mkdir(parents=True)
    with pytest.raises(DetectorError, match=r"no \.onnx file"):
        build_detector(settings)
    with pytest.raises(DetectorError, match="'cuda:N', got 'gpu'"):
        build_detector(DetectorSettings(), device="gpu")
    monkeypatch.setattr("ops.face.detect.onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DetectorError, match="onnxruntime-gpu"):
        build_detector(DetectorSettings(), device="cuda")


def test_auto_detects_on_the_cpu_where_onnxruntime_has_no_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ops.device.torch.cuda.is_available", lambda: True)
    providers = ["CPUExecutionProvider"]
    monkeypatch.setattr("ops.face.detect.onnxruntime.get_available_providers", lambda: providers)
    assert resolve_detector_device("auto") == "cpu"
    assert "onnxruntime-gpu" in caplog.text
    assert resolve_detector_device("cuda") == "cuda"  # asked for by name: building it then fails
    providers.insert(0, "CUDAExecutionProvider")
    assert resolve_detector_device("auto") == "cuda"


def test_wrong_frames_and_settings_are_refused() -> None:
    detector = build_detector(DetectorSettings(threads=1))
    for bad in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(DetectorError, match=r"uint8 \[H, W, 3\]"):
            detector.detect(bad)
    for bad_settings in ({"min_score": 0.0}, {"max_side_pixels": 8}, {"max_faces": 0}):
        with pytest.raises(DetectorError):
            DetectorSettings(**bad_settings)  # type: ignore[arg-type]
