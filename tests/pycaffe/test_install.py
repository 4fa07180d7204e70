"""`import caffe` means caffeio.pycaffe only where it was asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import caffeio.pycaffe
from caffeio.pycaffe.install_module import install, uninstall


@pytest.fixture
def installed():
    yield install()
    uninstall()


def test_caffe_is_our_module(installed):
    import caffe

    assert caffe is installed is caffeio.pycaffe
    assert (caffe.TRAIN, caffe.TEST, caffe.__version__) == (0, 1, "1.0.0")
    assert caffe.__spec__.name == "caffeio.pycaffe"


def test_modules_that_pycaffe_lacks_are_import_errors(installed):
    with pytest.raises(ImportError, match=r"caffe\.nothing"):
        import caffe.nothing  # noqa: F401


def test_uninstall_takes_the_name_back():
    install()
    uninstall()
    assert "caffe" not in sys.modules


def test_another_caffe_is_not_pushed_aside(monkeypatch):
    monkeypatch.setitem(sys.modules, "caffe", sys)
    with pytest.raises(ImportError, match="already imported"):
        install()


def test_the_name_is_free_and_torch_unloaded_by_default():
    code = "import caffeio.pycaffe, sys; print('caffe' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
