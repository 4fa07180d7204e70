"""Python layers of public projects that only read data: nets with them build without their code.

Their tops are given by the caller, as for a data layer without a source. Sources: the modules
roi_data_layer.layer (py-faster-rcnn), pythonLayer (CongWeilin/mtcnn-caffe), voc_layers,
nyud_layers, siftflow_layers and pascalcontext_layers (shelhamer/fcn.berkeleyvision.org).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from caffeio.layers.base import Shape, at_least
from caffeio.layers.python.native import python_layer
from caffeio.layers.sources import SourceLayer


class PythonData(SourceLayer):
    """Tops of the shapes that the project's own layer starts with."""

    tops = at_least(1)
    reads_data = False  # its shapes are those of a guess

    def sizes(self, *, usual: bool) -> Sequence[Shape | None]:
        """Guess the shape of each top by its name."""
        return [self.shape_of(name) for name in self.context.top_names]

    @property
    def note(self) -> str:
        """Say that the shapes are a guess."""
        return "the data are not here: the sizes are those that the layer starts with"

    def shape_of(self, top: str) -> Shape:
        """The shape of the top called `top`."""
        raise NotImplementedError


@python_layer("roi_data_layer.layer", "RoIDataLayer")
class RoIDataLayer(PythonData):
    """Images with their regions (Fast R-CNN) or their truths (Faster R-CNN)."""

    def shape_of(self, top: str) -> Shape:
        """data (1, 3, 600, 1000), im_info (1, 3), gt_boxes (1, 5); one region as in R-FCN."""
        found = re.search(r"num_classes\W+(\d+)", self.param.python_param.param_str)
        width = 4 * int(found.group(1)) if found else 4
        known: dict[str, Shape] = {
            "data": (1, 3, 600, 1000), "im_info": (1, 3), "gt_boxes": (1, 5),
            "rois": (1, 5, 1, 1), "labels": (1, 1, 1, 1),
        }  # fmt: skip
        return known.get(top, (1, width, 1, 1))


@python_layer("pythonLayer", "Data_Layer_train")
class FaceData(PythonData):
    """Faces of MTCNN's first net: patches, labels, boxes and landmarks."""

    def shape_of(self, top: str) -> Shape:
        """data (1, 3, 12, 12), label (1, 1), roi (1, 4), pts (1, 10)."""
        known: dict[str, Shape] = {"data": (1, 3, 12, 12), "label": (1, 1), "roi": (1, 4)}
        return known.get(top, (1, 10))


@python_layer("voc_layers", "VOCSegDataLayer")
@python_layer("voc_layers", "SBDDSegDataLayer")
@python_layer("nyud_layers", "NYUDSegDataLayer")
@python_layer("siftflow_layers", "SIFTFlowSegDataLayer")
@python_layer("pascalcontext_layers", "PASCALContextSegDataLayer")
class SegmentationData(PythonData):
    """One image and the labels of its pixels, 500 x 500 until they are given."""

    def shape_of(self, top: str) -> Shape:
        """Labels have one channel, depth has one, images have three."""
        one = top in ("label", "sem", "geo", "depth")
        return (1, 1 if one else 3, 500, 500)
