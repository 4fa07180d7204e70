"""Layers of SSD: prior boxes, matching, losses, detections."""
