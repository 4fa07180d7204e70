"""Permission to run the code of Python layers."""

from __future__ import annotations


def permit(allowed: bool) -> bool:
    """Let `import caffe` in that code be caffeio.pycaffe, unless a real Caffe is installed."""
    if allowed:
        from importlib.util import find_spec

        spec = find_spec("caffe")
        if spec is None or spec.origin is None:
            from caffeio.pycaffe.install_module import install

            install()
    return allowed
