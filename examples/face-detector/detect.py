"""Find boxes in a picture with an SSD that `caffeio convert` made an ONNX model."""

import sys

import cv2
import numpy as np
import onnxruntime

MEAN = (104, 117, 123)  # blue, green, red: what the net's authors subtracted


def main(model: str, picture: str, out: str, least: float = 0.5) -> None:
    """Print the boxes above the score `least`, and draw them."""
    session = onnxruntime.InferenceSession(model)
    data = session.get_inputs()[0]
    height, width = data.shape[2:]
    image = cv2.imread(picture)
    x = cv2.dnn.blobFromImage(image, 1, (width, height), MEAN)
    found = session.run(None, {data.name: x})[0].reshape(-1, 7)
    # With OpenCV 5: net = cv2.dnn.readNetFromONNX(model); net.setInput(x); found = net.forward()
    sides = np.array([image.shape[1], image.shape[0]] * 2)
    for _, label, score, *corners in found[found[:, 2] >= least]:
        x0, y0, x1, y1 = map(int, corners * sides)
        print(f"label {label:.0f}, score {score:.3f}: {x0}, {y0} to {x1}, {y1}")
        cv2.rectangle(image, (x0, y0), (x1, y1), (0, 0, 255), 2)
    cv2.imwrite(out, image)


if __name__ == "__main__":
    main(*sys.argv[1:4])
