"""Whether two models compute the same: numbers, layer by layer, and where they part."""
