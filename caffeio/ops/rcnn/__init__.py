"""Layers of R-CNN and its heirs: regions, proposals, targets."""
