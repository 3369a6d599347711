"""from_ultralytics, from_supervision, from_imx500 and from_hailo, on objects of the shape that those libraries give."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sightlog import Detection, Event, InvalidRecord, UsageError
from sightlog.adapters import from_hailo, from_imx500, from_supervision, from_ultralytics
from sightlog.protocol.encoding import encode_record

NAMES = {0: "person", 16: "dog"}
COCO = ["person", "bicycle", "car"]


def assert_stored(detections: list[Detection]) -> None:
    """The encoder takes them, and nothing but plain Python is in them."""
    encode_record(Event("front_door", detections=detections))
    for detection in detections:
        assert type(detection.label) is str
        assert type(detection.confidence) is float
        assert detection.bbox is not None
        assert [type(number) for number in detection.bbox] == [float] * 4


class Tensor:
    """Like one of torch on a GPU: it becomes a list, and no NumPy array."""

    def __init__(self, values: Any) -> None:
        self._array = np.array(values, np.float32)
        self.shape = self._array.shape

    def tolist(self) -> Any:
        return self._array.tolist()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class Results:
    """As Ultralytics has it: its attributes are None where its task has none, and it can be indexed itself."""

    def __init__(self, boxes: Any = None, *, obb: Any = None, probs: Any = None, names: Any = None) -> None:
        self.boxes, self.obb, self.probs, self.names = boxes, obb, probs, names or NAMES

    def __getitem__(self, index: int) -> Results:
        raise AssertionError("a Results is not what is gone through")

    def __len__(self) -> int:
        return 7


def yolo_boxes(rows: list[list[float]], array: Any = Tensor) -> SimpleNamespace:
    """Rows of x1, y1, x2, y2, confidence, class."""
    found = np.array(rows, np.float32).reshape(-1, 6)
    return SimpleNamespace(xyxy=array(found[:, :4]), conf=array(found[:, 4]), cls=array(found[:, 5]))


TWO = [[10.5, 20, 110, 220, 0.5, 0], [1, 2, 3, 4, 0.25, 16]]
TWO_DETECTIONS = [Detection("person", 0.5, (10.5, 20, 110, 220)), Detection("dog", 0.25, (1, 2, 3, 4))]


@pytest.mark.parametrize("array", [Tensor, np.array], ids=["tensors", "arrays"])
def test_ultralytics_boxes_become_detections(array):
    found = from_ultralytics([Results(yolo_boxes(TWO, array))])
    assert found == TWO_DETECTIONS
    assert_stored(found)


def test_ultralytics_gives_one_results_several_or_a_stream():
    one = Results(yolo_boxes(TWO[:1]))
    other = Results(yolo_boxes(TWO[1:]), names=["person"] * 17)
    assert from_ultralytics(one) == TWO_DETECTIONS[:1]
    assert [detection.label for detection in from_ultralytics(iter([one, other]))] == ["person", "person"]
    assert from_ultralytics([]) == []


def test_a_picture_without_objects_has_no_detections():
    assert from_ultralytics([Results(yolo_boxes([]))]) == []
    assert from_ultralytics([Results(obb=yolo_boxes([]))]) == []


def test_oriented_boxes_become_upright_ones():
    assert from_ultralytics([Results(obb=yolo_boxes(TWO))]) == TWO_DETECTIONS


def test_a_classification_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match="top1conf"):
        from_ultralytics([Results(probs=SimpleNamespace(top1=3, top1conf=Tensor(0.5)))])
    with pytest.raises(UsageError, match="without any"):
        from_ultralytics([Results()])
    with pytest.raises(UsageError, match="got str"):
        from_ultralytics(["bus.jpg"])


def test_a_class_that_the_model_has_no_name_for_is_refused():
    with pytest.raises(UsageError, match="class 3 has no name among the 2 labels"):
        from_ultralytics([Results(yolo_boxes([[1, 2, 3, 4, 0.5, 3]]))])
    with pytest.raises(InvalidRecord, match=r"class=1\.5"):
        from_ultralytics([Results(yolo_boxes([[1, 2, 3, 4, 0.5, 1.5]]))])


@pytest.mark.parametrize(
    ("given", "stored"), [(1.0000001, 1.0), (1.004, 1.0), (-1e-9, 0.0), (np.float16(0.5), 0.5), (1, 1.0)]
)
def test_a_confidence_that_rounding_put_outside_is_put_back(given, stored):
    found = from_ultralytics([Results(yolo_boxes([[1, 2, 3, 4, given, 0]]))])
    assert found[0].confidence == stored
    assert_stored(found)


@pytest.mark.parametrize("given", [float("nan"), float("inf"), 95.0, 1.02, -0.02])
def test_a_confidence_that_is_none_is_refused(given):
    with pytest.raises(InvalidRecord, match="confidence="):
        from_ultralytics([Results(yolo_boxes([[1, 2, 3, 4, given, 0]]))])


def test_a_box_that_is_none_is_refused():
    with pytest.raises(InvalidRecord, match=r"boxes\.xyxy: expected four finite numbers"):
        from_ultralytics([Results(yolo_boxes([[1, 2, np.nan, 4, 0.5, 0]]))])
    boxes = yolo_boxes(TWO)
    boxes.xyxy = Tensor(np.zeros((2, 5)))
    with pytest.raises(UsageError, match=r"\(n, 4\)"):
        from_ultralytics([Results(boxes)])
    boxes.xyxy = Tensor(np.zeros((1, 4)))
    with pytest.raises(UsageError, match="1 boxes, 2 confidences, 2 classes"):
        from_ultralytics([Results(boxes)])


@dataclass
class Detections:
    """As supervision has it."""

    xyxy: Any
    confidence: Any = None
    class_id: Any = None
    data: dict[str, Any] = field(default_factory=dict)


CORNERS = np.array([[10.5, 20, 110, 220], [1, 2, 3, 4]], np.float32)


def test_supervision_brings_the_names_with_it():
    found = from_supervision(
        Detections(CORNERS, np.array([0.5, 0.25]), np.array([0, 16]), {"class_name": np.array(["person", "dog"])})
    )
    assert found == TWO_DETECTIONS
    assert_stored(found)


@pytest.mark.parametrize("names", [NAMES, ["person"] + [""] * 15 + ["dog"]], ids=["dict", "list"])
@pytest.mark.parametrize("data", [{}, {"class_name": ["a", "b"]}], ids=["no data", "other names"])
def test_names_that_are_given_are_the_labels(names, data):
    found = from_supervision(Detections(CORNERS, np.array([0.5, 0.25]), np.array([0, 16]), data), names)
    assert found == TWO_DETECTIONS


def test_what_supervision_leaves_out_is_filled_in():
    assert from_supervision(Detections(CORNERS[:1])) == [Detection("object", 1.0, (10.5, 20, 110, 220))]
    assert from_supervision(Detections(CORNERS[:1], data={"class_name": ["cat"]}), NAMES)[0].label == "cat"


def test_class_ids_without_names_are_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"names=model\.names"):
        from_supervision(Detections(CORNERS, np.array([0.5, 0.25]), np.array([0, 16])))
    with pytest.raises(UsageError, match="class 16 has no name"):
        from_supervision(Detections(CORNERS, None, np.array([0, 16])), COCO)


def test_no_detections_of_supervision_are_none():
    empty = Detections(np.empty((0, 4), np.float32), np.array([], np.float32), np.array([], int))
    assert from_supervision(empty) == []
    with pytest.raises(UsageError, match="1 confidence"):
        from_supervision(Detections(CORNERS, np.array([0.5])))


# An IMX500 network gives 100 rows always; the score of those without an object is 0.
SCORES = np.array([0.75, 0.6, 0.3] + [0.0] * 97, np.float32)
CLASSES = np.array([0, 2, 1] + [0] * 97, np.float32)
YX = np.zeros((100, 4), np.float32)
YX[:3] = [[0.25, 0.125, 0.75, 0.5], [0, 0, 1, 1], [0.5, 0.5, 0.625, 0.625]]
ON_640x480 = [Detection("person", 0.75, (80, 120, 320, 360)), Detection("car", 0.6, (0, 0, 640, 480))]


def assert_same(found: list[Detection], expected: list[Detection]) -> None:
    """Up to the float32 of a score."""
    assert [detection.label for detection in found] == [detection.label for detection in expected]
    for detection, other in zip(found, expected, strict=True):
        assert detection.bbox == other.bbox
        assert detection.confidence == pytest.approx(other.confidence)
    assert_stored(found)


def test_imx500_boxes_of_the_network_are_scaled_in_either_order():
    for order, boxes in (("yx", YX), ("xy", YX[:, [1, 0, 3, 2]])):
        found = from_imx500(boxes, SCORES, CLASSES, COCO, box_order=order, frame_size=(640, 480))
        assert_same(found, ON_640x480)


def test_imx500_boxes_that_picamera2_split_have_arrays_of_one_number():
    split = zip(*np.array_split(YX, 4, axis=1), strict=True)
    assert_same(from_imx500(split, SCORES, CLASSES, COCO, box_order="yx", frame_size=(640, 480)), ON_640x480)


@dataclass
class Rectangle:
    """libcamera's, which cannot be gone through."""

    corners: tuple[int, int, int, int]

    def to_tuple(self) -> tuple[int, int, int, int]:
        return self.corners


@pytest.mark.parametrize("kind", [tuple, Rectangle])
def test_imx500_boxes_that_picamera2_converted_are_pixels(kind):
    boxes = [kind((80, 120, 240, 240)), kind((0, 0, 640, 480))]
    found = from_imx500(boxes, SCORES[:2], CLASSES[:2], COCO, box_order="xywh")
    assert_same(found, ON_640x480)


def test_imx500_keeps_what_reaches_the_threshold():
    def kept(threshold: float) -> int:
        return len(from_imx500(YX, SCORES, CLASSES, COCO, box_order="yx", frame_size=(640, 480), threshold=threshold))

    assert [kept(threshold) for threshold in (0.76, 0.75, 0.3, 0)] == [0, 1, 3, 100]


def test_an_order_has_to_be_given_and_be_one():
    for adapt in (
        lambda **more: from_imx500(YX, SCORES, CLASSES, COCO, **more),
        lambda **more: from_hailo([], COCO, **more),
    ):
        with pytest.raises(TypeError, match="box_order"):
            adapt(frame_size=(640, 480))
        for order in ("xyxy", "", None):
            with pytest.raises(UsageError, match="box_order="):
                adapt(box_order=order, frame_size=(640, 480))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"box_order": "yx"}, "give frame_size"),
        ({"box_order": "xywh", "frame_size": (640, 480)}, "leave frame_size out"),
        ({"box_order": "xywh"}, "is its order 'yx' or 'xy'"),
        ({"box_order": "yx", "frame_size": (640, 480, 3)}, r"frame_size=\(640, 480, 3\)"),
        ({"box_order": "yx", "frame_size": (640, 0)}, "frame_size="),
        ({"box_order": "yx", "frame_size": 640}, "frame_size=640"),
        ({"box_order": "yx", "frame_size": (640, 480), "boxes": YX * 320}, "bbox_normalization"),
        ({"box_order": "yx", "frame_size": (640, 480), "boxes": YX[None]}, r"\(n, 4\)"),
        ({"box_order": "yx", "frame_size": (640, 480), "boxes": 4}, r"\(n, 4\), got int"),
        ({"box_order": "yx", "frame_size": (640, 480), "scores": SCORES[None]}, r"scores: .* got shape \(1, 100\)"),
        ({"box_order": "yx", "frame_size": (640, 480), "scores": SCORES[1:]}, "99 scores"),
        ({"box_order": "yx", "frame_size": (640, 480), "scores": CLASSES}, "change places"),
        ({"box_order": "yx", "frame_size": (640, 480), "labels": COCO[:1]}, "class 2 has no name"),
    ],
)
def test_imx500_output_of_another_shape_is_refused_with_what_was_expected(given, said):
    call: dict[str, Any] = {"boxes": YX, "scores": SCORES, "classes": CLASSES, "labels": COCO, **given}
    with pytest.raises(UsageError, match=said):
        from_imx500(**call)


def hailo_output(rows: dict[int, list[list[float]]], classes: int = 3) -> list[np.ndarray]:
    """An array of (n, 5) for each class."""
    return [np.array(rows.get(number, []), np.float32).reshape(-1, 5) for number in range(classes)]


HAILO = hailo_output({0: [[0.25, 0.125, 0.75, 0.5, 0.75], [0, 0, 0.5, 0.5, 0.25]], 2: [[0, 0, 1, 1, 0.6]]})


@pytest.mark.parametrize("output", [HAILO, [rows.tolist() for rows in HAILO]], ids=["arrays", "lists"])
def test_hailo_boxes_are_scaled_in_either_order(output):
    assert_same(from_hailo(output, COCO, box_order="yx", frame_size=(640, 480)), ON_640x480)
    turned = [np.array(rows, np.float32).reshape(-1, 5)[:, [1, 0, 3, 2, 4]] for rows in output]
    assert_same(from_hailo(turned, COCO, box_order="xy", frame_size=(640, 480)), ON_640x480)


def test_hailo_without_objects_has_no_detections():
    assert from_hailo(hailo_output({}), COCO, box_order="yx", frame_size=(640, 480)) == []
    assert len(from_hailo(HAILO, COCO, box_order="yx", frame_size=(640, 480), threshold=0.25)) == 3


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ([HAILO], "Of a batch give one item"),
        ([hailo_output({})], "Of a batch give one item"),
        ([hailo_output({0: [[0, 0, 1, 1, 0.9]] * 5})], "Of a batch give one item"),
        ({"nms": HAILO, "mask": []}, "of nms, mask"),
        (np.zeros((3, 4, 4)), "expected boxes of five numbers"),
        (np.zeros(5), "a list of boxes for each class, got ndarray"),
        (None, "got NoneType"),
        (hailo_output({0: [[0, 0, 640, 480, 0.9]]}), "not normalised"),
        (hailo_output({3: [[0, 0, 1, 1, 0.9]]}, 4), "class 3 has no name"),
        (hailo_output({0: [[0, 0, 1, 1, np.nan]]}), "score=nan"),
        (hailo_output({0: [[0, 0, 1, np.inf, 0.9]]}), "finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hailo_output_of_another_shape_is_refused_with_what_was_expected(output, said):
    with pytest.raises(UsageError, match=said):
        from_hailo(output, COCO, box_order="yx", frame_size=(640, 480))


def test_the_adapters_need_no_library_at_all():
    code = """if True:
        import sys
        from types import SimpleNamespace as N
        for library in "numpy PIL cv2 torch ultralytics supervision insightface face_recognition".split():
            sys.modules[library] = None
        from sightlog.adapters import (
            from_face_recognition, from_hailo, from_imx500, from_insightface, from_supervision, from_ultralytics
        )
        boxes = N(xyxy=[[1, 2, 3, 4]], conf=[0.5], cls=[0.0])
        assert from_ultralytics(N(boxes=boxes, names={0: "cat"}))[0].label == "cat"
        assert from_supervision(N(xyxy=[[1, 2, 3, 4]], confidence=None, class_id=None, data={}))[0].confidence == 1
        assert from_imx500([(1, 2, 3, 4)], [0.9], [0], ["cat"], box_order="xywh")[0].bbox == (1, 2, 4, 6)
        assert from_hailo([[[0, 0, 1, 1, 0.9]]], ["cat"], box_order="yx", frame_size=(4, 2))[0].bbox == (0, 0, 4, 2)
        assert from_face_recognition([(1, 2, 3, 4)], [[0.25]], ["anna"])[0].name == "anna"
        face = N(bbox=[1, 2, 3, 4], det_score=0.5, embedding=[1.0, 2.0])
        assert from_insightface([face], model="buffalo_l")[0].embedding == [1.0, 2.0]
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
