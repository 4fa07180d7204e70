"""The ONNX graph that layers write themselves into."""
