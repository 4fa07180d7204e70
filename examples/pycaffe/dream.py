"""DeepDream's step on a small net, written for pycaffe: `caffeio run dream.py`."""

from pathlib import Path

import caffe
import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
END = "conv2"


def score(net: caffe.Net) -> float:
    """Half the sum of squares of the layer's blob; leaves its gradient in the blob's diff."""
    net.forward(end=END)
    blob = net.blobs[END]
    blob.diff[...] = blob.data
    return 0.5 * float(np.sum(blob.data.astype(np.float64) ** 2))


def climb(net: caffe.Net, steps: int, rate: float) -> None:
    """Move the image up the gradient."""
    image = net.blobs["data"]
    for step in range(steps):
        value = score(net)
        gradient = net.backward(start=END)["data"]
        image.data[...] += rate * gradient / np.abs(gradient).mean()
        print(f"step {step}: {value:.3f}")


def check_gradient(net: caffe.Net) -> None:
    """Compare one number of the gradient with a difference quotient."""
    score(net)
    gradient = float(net.backward(start=END)["data"][0, 1, 16, 16])
    pixel, width = net.blobs["data"].data[0, 1], 0.05
    values = []
    for change in (width, -2 * width):
        pixel[16, 16] += change
        values.append(score(net))
    print(f"gradient {gradient:.2f}, by differences {(values[0] - values[1]) / (2 * width):.2f}")


def main() -> None:
    """Run all of it."""
    caffe.set_mode_cpu()
    caffe.set_random_seed(7)
    net = caffe.Net(str(HERE / "net.prototxt"), caffe.TEST)
    rows, columns = np.mgrid[:32, :32]
    net.blobs["data"].data[...] = np.sin(rows / 5.0) * np.cos(columns / 3.0)
    climb(net, steps=5, rate=0.05)
    net.save("net.caffemodel")
    again = caffe.Net(str(HERE / "net.prototxt"), caffe.TEST, weights="net.caffemodel")
    again.blobs["data"].data[...] = net.blobs["data"].data
    print("same after reading:", np.array_equal(net.forward()["prob"], again.forward()["prob"]))
    image = net.blobs["data"].data[0].transpose(1, 2, 0)
    cv2.imwrite("dream.png", (image - image.min()) / np.ptp(image) * 255)
    check_gradient(net)


if __name__ == "__main__":
    main()
