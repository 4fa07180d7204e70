"""ONNX models and torch modules as Caffe nets: a compiler in eight short steps.

    load      a file or a module -> a ModelProto of float32 with fixed input shapes
    fold      onnxruntime runs it once: constants, shapes, nothing left that only computes shapes
    patterns  several nodes that Caffe says in one layer become one node
    ops/      a table: one converter an operator, each writes Caffe layers
    exact     what Caffe has no layer for, said in layers that it has; `converters/rewrites`, which
              --to-dialect uses too, has the forms of other Caffes' layers
    finish    layers that undo each other go, ReLU in place, names
    verify    onnxruntime on the original, our Net on the result
    write     prototxt and caffemodel

`compile.py` is the order of these steps, `targets/` says what each Caffe takes.
"""
