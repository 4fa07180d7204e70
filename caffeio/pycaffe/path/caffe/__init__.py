"""`import caffe` of programs whose PYTHONPATH holds the folder that `caffeio run --path` prints."""

import sys

from caffeio.pycaffe.install_module import install

# the name must be free: this module gives way to caffeio.pycaffe
del sys.modules["caffe"]
install()
