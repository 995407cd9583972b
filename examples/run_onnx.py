"""Detect with an ONNX file of ThinYOLO, without ThinYOLO: onnxruntime, OpenCV, NumPy, and what the file says of itself.

    python examples/run_onnx.py student.onnx street.jpg cars/*.png > found.json

Made to be copied and translated: every step from the picture to the boxes is here, for all kinds of heads and all
three --outputs of `thinyolo export`. It finds what `thinyolo predict` finds.
"""

import argparse
import json

import cv2
import numpy as np
import onnxruntime


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def softmax(values):
    grown = np.exp(values - values.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def fitted(image, height, width, about):
    """The picture as the network takes it, (height, width, 3), and by what (x, y) it was scaled and moved."""
    rows, columns = image.shape[:2]
    if about["resize"] == "stretch":
        least = (min(width, columns), min(height, rows))
        image = cv2.resize(image, least, interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return image, np.array([width / columns, height / rows]), np.zeros(2)
    scale = min(height / rows, width / columns)
    new_rows = max(1, min(height, round(rows * scale)))  # Python rounds halves to the even number
    new_columns = max(1, min(width, round(columns * scale)))
    if (new_rows, new_columns) != (rows, columns):
        way = cv2.INTER_AREA if new_rows < rows else cv2.INTER_LINEAR
        image = cv2.resize(image, (new_columns, new_rows), interpolation=way)
    top, left = (height - new_rows) // 2, (width - new_columns) // 2
    canvas = np.full((height, width, 3), about["input"]["fill"], np.uint8)
    canvas[top : top + new_rows, left : left + new_columns] = image
    return canvas, np.array([new_columns / columns, new_rows / rows]), np.array([left, top])


def decoded_anchored(logits, head):
    """(A, H, W, 5 + C) logits -> (n, 4) cx, cy, w, h in pixels of the input, and (n, C) confidences."""
    row, column = np.mgrid[: logits.shape[1], : logits.shape[2]]
    grow = head["scale_x_y"]
    centre = (sigmoid(logits[..., :2]) * grow - (grow - 1) / 2 + np.stack([column, row], -1)) * head["stride"]
    anchors = np.array(head["anchors"]).reshape(-1, 1, 1, 2)
    size = ((2 * sigmoid(logits[..., 2:4])) ** 2 if head["new_coords"] else np.exp(logits[..., 2:4])) * anchors
    classes = softmax(logits[..., 5:]) if head["softmax"] else sigmoid(logits[..., 5:])
    scores = sigmoid(logits[..., 4:5]) * classes
    return np.concatenate([centre, size], -1).reshape(-1, 4), scores.reshape(-1, scores.shape[-1])


def decoded_free(logits, head):
    """(1, H, W, 4 bins + C) logits of a head without anchors -> the same."""
    row, column = np.mgrid[: logits.shape[1], : logits.shape[2]]
    bins = head["bins"]
    sides = logits[..., : 4 * bins].reshape(*logits.shape[:3], 4, bins)  # left, top, right, bottom
    sides = sides[..., 0] if bins == 1 else (softmax(sides) * np.arange(bins)).sum(-1)
    near, far = sides[..., :2], sides[..., 2:]
    centre = np.stack([column, row], -1) + 0.5 + (far - near) / 2
    boxes = np.concatenate([centre, near + far], -1) * head["stride"]
    scores = sigmoid(logits[..., 4 * bins :])
    return boxes.reshape(-1, 4), scores.reshape(-1, scores.shape[-1])


def corners(boxes):
    """cx, cy, w, h -> x1, y1, x2, y2."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def candidates(outputs, about):
    """What the file put out for one picture -> x1, y1, x2, y2 (n, 4), confidence (n,), class (n,)."""
    if about["outputs"] == "boxes":  # with the picture's number first where NMS is inside
        rows = outputs[0][0] if about["detection"]["one_to_one"] else outputs[0][outputs[0][:, 0] == 0][:, 1:]
        return rows[:, :4], rows[:, 4], rows[:, 5].astype(int)
    if about["outputs"] == "decoded":
        rows, classes = outputs[0][0], len(about["names"])
        boxes, scores = rows[:, :4], rows[:, -classes:]
        if rows.shape[1] == 5 + classes:
            scores = rows[:, 4:5] * scores
    else:
        parts = [
            (decoded_free if head.get("family") == "free" else decoded_anchored)(output[0].astype(np.float64), head)
            for output, head in zip(outputs, about["heads"])
        ]
        boxes, scores = (np.concatenate(each) for each in zip(*parts))
    label = scores.argmax(1)  # of a place its most confident class only
    return corners(boxes), scores[np.arange(len(label)), label], label


def overlap(box, others):
    """(n,) IoU of a box with others (n, 4)."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = shared.clip(0).prod(1)
    sizes = (others[:, 2:] - others[:, :2]).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + sizes - shared)


def chosen(boxes, confidence, label, rule):
    """The places of the boxes that are shown, the most confident first."""
    order = np.argsort(-confidence, kind="stable")
    order = order[confidence[order] > rule["conf"]]
    # A file that chooses boxes itself may give one for each of several classes: the most confident is shown.
    order = order[np.sort(np.unique(boxes[order], axis=0, return_index=True)[1])]
    if rule["one_to_one"]:  # trained to give an object one box: nothing to suppress
        return order[: rule["max_det"]]
    kept: list[int] = []
    while len(order) and len(kept) < rule["max_det"]:
        best, order = order[0], order[1:]
        kept.append(best)
        double = (label[order] == label[best]) & (overlap(boxes[best], boxes[order]) > rule["iou"])
        order = order[~double]
    return kept


def detect(session, about, image):
    """The boxes in a picture (h, w, 3) as OpenCV reads it: (x1, y1, x2, y2) in its pixels, confidence, class."""
    height, width = about["size"]
    picture, scale, offset = fitted(image, height, width, about)
    assert about["input"]["channels"] == "RGB"
    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.float32) / about["input"]["divided_by"]
    batch = np.repeat(picture.transpose(2, 0, 1)[None], max(1, about["batch"]), 0)
    boxes, confidence, label = candidates(session.run(None, {session.get_inputs()[0].name: batch}), about)
    kept = chosen(boxes, confidence, label, about["detection"])
    boxes = (boxes[kept] - np.tile(offset, 2)) / np.tile(scale, 2)
    boxes = boxes.clip(0, np.tile(image.shape[1::-1], 2))
    return list(zip(boxes.tolist(), confidence[kept].tolist(), label[kept].tolist()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an ONNX file that thinyolo export wrote")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--conf", type=float, help="least confidence; without: what the file says")
    arguments = parser.parse_args()
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    written = session.get_modelmeta().custom_metadata_map
    keys = ("names", "heads", "size", "batch", "input", "detection")
    about = {**written, **{key: json.loads(written[key]) for key in keys}}
    if arguments.conf is not None:
        about["detection"]["conf"] = arguments.conf
    found = []
    for path in arguments.pictures:
        image = cv2.imread(path)  # turned as its EXIF orientation says
        if image is None:
            parser.error(f"{path} is not a picture OpenCV can read")
        boxes = [
            {"class": label, "name": about["names"][label], "confidence": score, "box_xyxy": box}
            for box, score, label in detect(session, about, image)
        ]
        found.append({"source": path, "height": image.shape[0], "width": image.shape[1], "detections": boxes})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
