"""The arithmetic of the layer types, on torch: one module a family, as in `caffeio.layers`."""
