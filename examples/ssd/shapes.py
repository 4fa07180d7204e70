"""Draw discs, squares and triangles on noise, with their boxes: two databases for SSD."""

from pathlib import Path

import cv2
import numpy as np

from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.annotated_datum import AnnotatedBox, encode_annotated
from caffeio.data.records.datum import encode_datum

SIZE = 96  # pixels a side
NAMES = ("background", "disc", "square", "triangle")


def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[AnnotatedBox]]:
    """One picture, uint8 (SIZE, SIZE, 3), with one to three shapes that hardly overlap."""
    picture = rng.normal(90, 25, (SIZE, SIZE, 3))
    boxes: list[AnnotatedBox] = []
    for _ in range(rng.integers(1, 4)):
        side = int(rng.integers(18, 44))
        x, y = rng.integers(1, SIZE - side - 1, 2).tolist()
        if any(x < b.xmax * SIZE + 3 and b.xmin * SIZE < x + side + 3 and
               y < b.ymax * SIZE + 3 and b.ymin * SIZE < y + side + 3 for b in boxes):  # fmt: skip
            continue
        label = int(rng.integers(1, 4))
        paint(picture, label, x, y, side, rng.uniform(0, 255, 3).tolist())
        corners = (v / SIZE for v in (x, y, x + side, y + side))
        boxes.append(AnnotatedBox(label, len(boxes), *corners))
    picture += rng.normal(0, 8, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), boxes


def paint(picture: np.ndarray, label: int, x: int, y: int, side: int, colour: list[float]) -> None:
    """Draw one shape into its square."""
    if label == 1:
        cv2.circle(picture, (x + side // 2, y + side // 2), side // 2, colour, -1)
    elif label == 2:
        cv2.rectangle(picture, (x, y), (x + side, y + side), colour, -1)
    else:
        corners = np.array([[x, y + side], [x + side, y + side], [x + side // 2, y]])
        cv2.fillPoly(picture, [corners], colour)


def make(path: str, count: int, seed: int) -> None:
    """Write a database of AnnotatedDatums, the records of SSD's data layer."""
    rng = np.random.default_rng(seed)

    def records():
        for i in range(count):
            picture, boxes = draw(rng)
            png = cv2.imencode(".png", picture)[1].tobytes()
            datum = encode_datum(data=png, label=-1, encoded=True)
            yield f"{i:08d}", encode_annotated(datum, boxes)

    write_lmdb(path, records())
    print(f"{path}: {count} pictures")


if __name__ == "__main__":
    make("shapes_train_lmdb", 3000, seed=1)
    make("shapes_test_lmdb", 200, seed=2)
    cv2.imwrite("street.png", draw(np.random.default_rng(159))[0])
    Path("names.txt").write_text("".join(f"{name}\n" for name in NAMES))
