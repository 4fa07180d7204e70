"""`caffeio run`: scripts in which `import caffe` is ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from caffeio.cli.main import main
from tests import warm


def run(*args, cwd):
    return subprocess.run(
        **warm.caffeio("run", *args), cwd=cwd, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.fixture
def script(tmp_path):
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "beside.py").write_text("import caffe\nPHASE = caffe.TEST\n")
    path = folder / "script.py"
    path.write_text(
        "import sys, caffe, beside\n"
        "from caffe.proto import caffe_pb2\n"
        "assert __name__ == '__main__'\n"
        "print(beside.PHASE, sys.argv[1:], caffe_pb2.TRAIN, caffe._caffe.BlobVec.__name__)\n"
        "sys.exit(7)\n"
    )
    return path


def test_a_script_gets_its_arguments_and_its_exit_code(script, tmp_path):
    done = run(str(script), "-v", "--path", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, "1 ['-v', '--path', 'x'] 0 BlobVec\n")


def test_modules_and_texts(script):
    folder = script.parent
    done = run("-m", "beside", "-x", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("-c", "import sys, caffe; print(caffe.TEST, sys.argv)", "-m", cwd=folder)
    assert done.stdout == "1 ['-c', '-m']\n"


def test_the_path_works_without_us(script):
    folder = run("--path", cwd=script.parent).stdout.strip()
    code = "import caffe.io, caffe; from caffe import layers as L; print(caffe.__name__)"
    path = os.pathsep.join([folder, *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "caffeio.pycaffe\n"


def test_errors_of_a_script_are_shown_with_its_own_lines(tmp_path):
    (tmp_path / "bad.py").write_text("import caffe\ncaffe.Net('none.prototxt', caffe.TEST)\n")
    done = run("bad.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: Could not open file none.prototxt" in done.stderr
    assert "runpy" not in done.stderr
    assert 'bad.py", line 2' in done.stderr


def test_a_missing_mean_image_is_explained(tmp_path):
    code = (
        "import caffe, os, numpy as np\n"
        "np.load(os.path.join(os.path.dirname(caffe.__file__), 'imagenet/ilsvrc_2012_mean.npy'))"
    )
    done = run("-c", code, cwd=tmp_path)
    assert done.returncode == 1
    assert "caffeio does not bring ilsvrc_2012_mean.npy" in done.stderr
    assert "104.00698793" in done.stderr


@pytest.mark.parametrize(
    "args", [(), ("none.py",), ("--py2", "-m", "x"), ("--show", "x.py"), ("--bad", "x.py")]
)
def test_wrong_use(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["run", *args])
    assert done.exit_code == 2
    assert "Error:" in done.output


def test_python_layers_of_caffeio_train_find_the_whole_of_caffe(tmp_path):
    (tmp_path / "whole.py").write_text(
        "import caffe\nfrom caffe.proto import caffe_pb2\n\n\n"
        "class Ones(caffe.Layer):\n"
        "    def setup(self, bottom, top):\n"
        "        self.shape = caffe_pb2.BlobShape(dim=[2, 3])\n\n"
        "    def reshape(self, bottom, top):\n"
        "        top[0].reshape(*self.shape.dim)\n\n"
        "    def forward(self, bottom, top):\n"
        "        top[0].data[...] = caffe.TEST\n\n"
        "    def backward(self, top, propagate_down, bottom):\n"
        "        pass\n"
    )
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "Python" top: "x" python_param { module: "whole" layer: "Ones" } }'
        'layer { name: "s" type: "Reduction" bottom: "x" top: "s" }'
    )
    options = warm.caffeio("time", "net.prototxt", "-n", "1", "--allow-python")
    done = subprocess.run(**options, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
