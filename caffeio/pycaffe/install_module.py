"""Makes `import caffe` mean caffeio.pycaffe, for as long as it is wanted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NAME = "caffe"
_PACKAGE = "caffeio.pycaffe"


class _Finder(MetaPathFinder, Loader):
    """Finds `caffe` and `caffe.x` as the modules `caffeio.pycaffe` and `caffeio.pycaffe.x`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Claim the names of pycaffe's modules that exist here."""
        if fullname != NAME and not fullname.startswith(f"{NAME}."):
            return None
        try:
            import_module(_PACKAGE + fullname[len(NAME) :])
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.startswith(_PACKAGE):
                return None
            raise
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself: both names mean one object."""
        module = sys.modules[_PACKAGE + spec.name[len(NAME) :]]
        self._own = (module.__spec__, module.__loader__, module.__package__)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back: it has been executed under its own name."""
        module.__spec__, module.__loader__, module.__package__ = self._own


_finder = _Finder()


def install() -> ModuleType:
    """Let `import caffe` and `from caffe.x import y` give caffeio.pycaffe; return that module.

    Raises ImportError if another `caffe` has been imported already.
    """
    package = import_module(_PACKAGE)
    there = sys.modules.get(NAME)
    if there is not None and there is not package:
        origin = getattr(there, "__file__", None) or "no file"
        raise ImportError(f"another module named caffe is already imported ({origin})")
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    sys.modules[NAME] = package
    return package


def uninstall() -> None:
    """Take back what `install` did; modules that scripts hold keep working."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    package = sys.modules.get(_PACKAGE)
    for name in [n for n in sys.modules if n == NAME or n.startswith(f"{NAME}.")]:
        own = sys.modules.get(_PACKAGE + name[len(NAME) :])
        if (name == NAME and sys.modules[name] is package) or sys.modules[name] is own:
            del sys.modules[name]
