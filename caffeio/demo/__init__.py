"""`caffeio demo`: the five-phase recipe, small, on data made on the spot."""
