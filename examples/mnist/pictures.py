"""Score LeNet on all test digits; draw its filters, its confusions and its worst mistakes."""

import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch

import caffeio
from caffeio.tools.sheet import grid
from caffeio.tools.tiles import filter_sheet, to_bgr

matplotlib.use("Agg")
from matplotlib import pyplot


def main(weights: str) -> None:
    """Write filters.png, confusion.png and mistakes.png, and print the accuracy."""
    net = caffeio.load_net("lenet.prototxt", weights)
    cv2.imwrite("filters.png", filter_sheet(net.params["conv1"][0].detach().numpy()))
    digits, labels, scores = [], [], []
    with torch.no_grad():
        for _ in range(100):  # batches of 100, as the net's own data layer reads them
            inputs = net.read_inputs()
            net(inputs)
            digits.append(inputs["data"].numpy().copy())
            labels.append(inputs["label"].numpy().astype(int))
            scores.append(torch.softmax(net.blobs["ip2"], 1).numpy())
    digits, labels, scores = map(np.concatenate, (digits, labels, scores))
    found = scores.argmax(1)
    print(f"{(found == labels).mean():.4f} of {len(labels):,} test digits are right")
    draw_confusion(labels, found)
    draw_mistakes(digits, labels, found, scores)


def draw_confusion(labels: np.ndarray, found: np.ndarray) -> None:
    """Write how often each digit was taken for which."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, found), 1)
    figure, axis = pyplot.subplots(figsize=(5, 5))
    axis.imshow(np.log1p(counts), cmap="Blues")
    for row, column in np.argwhere(counts):
        colour = "white" if row == column else "black"
        axis.text(column, row, counts[row, column], ha="center", va="center", color=colour, size=8)
    axis.set(xlabel="taken for", ylabel="digit", xticks=range(10), yticks=range(10))
    figure.tight_layout()
    figure.savefig("confusion.png", dpi=110)


def draw_mistakes(
    digits: np.ndarray, labels: np.ndarray, found: np.ndarray, scores: np.ndarray
) -> None:
    """Write the wrong digits of which the net was surest."""
    wrong = np.flatnonzero(labels != found)
    worst = wrong[np.argsort(-scores[wrong, found[wrong]])][:24]
    cells = [
        (f"{labels[i]} not {found[i]}, {scores[i, found[i]]:.2f}", to_bgr(digits[i])) for i in worst
    ]
    rows = [("", cells[at : at + 8]) for at in range(0, len(cells), 8)]
    cv2.imwrite("mistakes.png", grid(rows))


if __name__ == "__main__":
    newest = sorted(Path().glob("lenet*.caffemodel"), key=lambda path: path.stat().st_mtime)
    main(sys.argv[1] if len(sys.argv) > 1 else str(newest[-1]))
