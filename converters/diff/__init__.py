"""Differences between two Caffe files of the same kind."""
