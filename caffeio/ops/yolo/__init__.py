"""Layers of YOLO and its forks."""
