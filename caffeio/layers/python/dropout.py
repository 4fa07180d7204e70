"""The Python layer of ENet that drops whole planes.

Source: python/spatial_dropout.py of TimoSaemann/caffe-enet.
"""

from __future__ import annotations

import ast

from caffeio.layers.base import Shape
from caffeio.layers.dropout import RandomMask
from caffeio.layers.python.native import python_layer


@python_layer("spatial_dropout", "SpatialDropoutLayer")
class SpatialDropoutLayer(RandomMask):
    """Planes times 1 / (1 - p); those drawn with probability p are 0 where param_str says TRAIN.

    param_str is a dictionary of `phase`, which counts in place of the net's, and `p`. The factor
    stays in TEST, as in the source. The gradient is that of the planes that were drawn; the
    source multiplies all items by the last item's draw.
    """

    compute = "caffeio.ops.dropout:whole_planes"

    def setup(self, *shapes: Shape) -> None:
        """Read param_str."""
        field = "python_param.param_str"
        try:
            given = ast.literal_eval(self.param.python_param.param_str)
            ratio, phase = float(given["p"]), str(given["phase"])
        except (KeyError, SyntaxError, TypeError, ValueError):
            raise self.error("must be {'phase': 'TRAIN', 'p': '0.1'}", field=field) from None
        self.read_ratio(ratio, field)
        self.check(len(shapes[0]) >= 2, f"needs a bottom of 2 axes or more, not {shapes[0]}")
        self.drops = phase == "TRAIN"
