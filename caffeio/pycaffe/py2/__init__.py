"""Runs Python 2 scripts: they are translated in memory, and find what Python 2 had.

    with Python2([folder_of_the_script], show=print) as py2:
        py2.run(path, namespace)

`namespace` are the globals of the script (`vars(module)` of a module `__main__`). `show` gets a
text for each file that was translated: what was changed, line by line; None shows nothing. Inside
the `with`, modules of the user's own that are imported are translated too, NumPy, SciPy and
scikit-image have their old names again, and modules such as cPickle and StringIO exist; all is
taken back at its end. Needs fissix (`pip install 'caffeio[py2]'`); UnsupportedError says so. A file
that is no Python 2 raises ParseError with file:line:column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffeio._lazy import lazy_names

if TYPE_CHECKING:
    from caffeio.pycaffe.py2.run import Python2 as Python2
    from caffeio.pycaffe.py2.translator import Translation as Translation
    from caffeio.pycaffe.py2.translator import translate as translate

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Python2": "caffeio.pycaffe.py2.run",
        "Translation": "caffeio.pycaffe.py2.translator",
        "translate": "caffeio.pycaffe.py2.translator",
    },
)
