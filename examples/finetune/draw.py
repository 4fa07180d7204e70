"""Draw the data: 20 letters in a database, and 4 new ones, of which there are only ten each."""

from pathlib import Path

import cv2
import numpy as np

from caffeio.data.db.lmdb import write_lmdb
from caffeio.data.records.datum import encode_datum
from caffeio.demo import glyphs

NEW = "VWZQ"


def main() -> None:
    """Write letters_lmdb, new/ with list.txt, and new_test_lmdb."""
    glyphs.make_lmdb(Path("letters_lmdb"), 4000, seed=1)
    rng = np.random.default_rng(2)
    Path("new").mkdir(exist_ok=True)
    lines = []
    for i in range(40):
        label = i % len(NEW)
        name = f"{NEW[label]}{i // len(NEW)}.png"
        cv2.imwrite(f"new/{name}", glyphs.render(label, rng, NEW))
        lines.append(f"{name} {label}\n")
    Path("list.txt").write_text("".join(lines))

    def records():
        for i in range(400):
            jpeg = cv2.imencode(".jpg", glyphs.render(i % len(NEW), rng, NEW))[1].tobytes()
            yield f"{i:08d}", encode_datum(data=jpeg, label=i % len(NEW), encoded=True)

    write_lmdb("new_test_lmdb", records())


if __name__ == "__main__":
    main()
