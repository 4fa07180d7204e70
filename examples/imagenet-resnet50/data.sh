#!/usr/bin/env bash
# Usage: data.sh IMAGENET OUT. IMAGENET has train/ (a folder a class), val/ and val.txt (name and
# label a line). Pictures of 256 x 256 pixels, as JPEGs; the recipe's authors had 42 GB of them.
set -euo pipefail
imagenet=$1 out=$2
caffeio db create "$imagenet/train" "$out/ilsvrc12_train_lmdb" --resize 256x256 --encode-type jpg \
    --classes "$out/synsets.txt"
caffeio db create "$imagenet/val.txt" "$out/ilsvrc12_val_lmdb" --root "$imagenet/val/" \
    --resize 256x256 --encode-type jpg
caffeio db show "$out/ilsvrc12_train_lmdb" --sheet "$out/train.png" --classes "$out/synsets.txt"
