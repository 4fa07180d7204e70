"""What the tests of pycaffe share."""

from __future__ import annotations

import pytest

import caffeio.pycaffe as caffe
from caffeio.pycaffe.state import State, state


@pytest.fixture(autouse=True)
def fresh_state():
    """Every test begins as a new process would, without log lines."""
    vars(state).update(vars(State()))
    caffe.init_log(2)
    yield
    vars(state).update(vars(State()))


@pytest.fixture
def net_file(tmp_path):
    """Writes a net and gives its path."""

    def write(text: str, name: str = "net.prototxt") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write
