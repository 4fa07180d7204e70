"""Layers of one Caffe said by those of another: exact forms, for `--to-dialect`."""
