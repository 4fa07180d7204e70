from __future__ import annotations

import pytest

from caffeio.errors import LayerError
from tests.layers.tools import make


def test_engines_and_defaults_say_nothing() -> None:
    make('type: "ReLU" relu_param { engine: CUDNN fuse: true }', (2, 3))
    make('type: "ELU" elu_param { symmetric_mode: false }', (2, 3))
    make('type: "Softmax" softmax_param { scaling_temperature: 1 }', (2, 3))


def test_unknown_fields_are_named() -> None:
    with pytest.raises(LayerError, match=r"elu_param.symmetric_mode: is a fork's field"):
        make('type: "ELU" elu_param { symmetric_mode: true }', (2, 3))
    fused = "num_output: 1 kernel_size: 1 eltwise_param { coeff: 1 }"
    with pytest.raises(LayerError, match=r"convolution_param.eltwise_param: is a fork's field"):
        make(f'type: "Convolution" convolution_param {{ {fused} }}', (1, 1, 2, 2))


def test_older_names_of_dilation() -> None:
    for fields in ("dilation: 2", "filter_stride: 2", "dilation_h: 2 dilation_w: 2",
                   "filter_stride_h: 2 filter_stride_w: 2"):  # fmt: skip
        text = f'type: "Convolution" convolution_param {{ num_output: 1 kernel_size: 3 {fields} }}'
        assert make(text, (1, 1, 7, 9)).top_shapes == ((1, 1, 3, 5),)
