"""ONNX models and torch modules as Caffe nets: a compiler in short steps, to be read in this order.

    compile.py        the order of the steps, and the one error that lists all that is refused
    load.py           an .onnx file -> a Model; torch_export.py: a module or a program -> a Model
    model.py            a ModelProto, and its large weights beside it, which nobody copies
    fix.py            float32, fixed input shapes, the outputs that are wanted
    fold.py           onnxruntime runs it once: all shapes, all constants -> a Graph
    graph.py            nodes, constants, shapes
    patterns/         several nodes that Caffe says in one layer become one node
    ops/              a table (table.py): one converter an operator, each writes layers to a Writer
    caffe_net.py        the Writer: the Caffe net while it is written, and the shape of every blob
    operands.py         two blobs of different shapes, or a blob and constants
    exact.py            what Caffe has no layer for, in layers that it has; rewriting.py takes other
                        Caffes' layers from `converters/rewrites`, which --to-dialect uses too
    merging.py        neighbours that are one layer; absorbing.py: Reshapes around a layer that has
                        an `axis`; wiring.py: who makes and reads a blob
    finish.py         what nobody reads goes, ReLU in place, names (names.py)
    verify.py         onnxruntime on the original, our Net on the result; truth.py: float64 decides;
                        samples.py: on what inputs; compared.py: what was found;
                        selection.py: rows that a layer chooses; ties.py: indices of equal numbers
    write.py          prototxt, and caffemodel or HDF5

`targets.py` reads what each Caffe takes out of `targets/`; `rules.py` holds layers against it, here
and for lint. `conversion.py` is `caffeio convert`, `torch_module.py` is `caffeio.from_torch`.
"""
