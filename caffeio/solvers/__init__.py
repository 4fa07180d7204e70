"""Caffe's solver types as torch optimizers: `base` what they share, `rules` one class a type."""
