"""Runs translated code: the script, and the modules of the user's own that it imports."""

from __future__ import annotations

import builtins
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Self

from caffeio.errors import CaffeIOError
from caffeio.pycaffe.py2.names import PACKAGES, names_of_old, patched, shim
from caffeio.pycaffe.py2.runtime import builtin_names
from caffeio.pycaffe.py2.translator import translate

Show = Callable[[str], object]
_OURS = str(Path(__file__).resolve().parents[2])


def _foreign_roots(own: Sequence[str]) -> list[str]:
    """The folders whose modules are not the user's: the library, packages, what was there."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    there = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # what pip has put somewhere is not the user's, wherever it is
    there = [os.path.realpath(p) for p in there if not any(Path(p or ".").glob("*.dist-info"))]
    before = [
        path
        for path in sys.path
        if path and os.path.realpath(path) not in there and path not in own
    ]
    return [os.path.realpath(path) for path in (*paths, *before)] + [_OURS]


class Python2:
    """A context in which Python 2 runs (see the package); `folders` are the script's own."""

    def __init__(self, folders: Iterable[str | os.PathLike[str]] = (), *, show: Show | None = None):
        self.folders = [os.path.realpath(folder) for folder in folders]
        self.show = show
        self.modules: set[str] = set()  # that were translated
        self._stack = ExitStack()
        self._builtins: dict[str, Any] = {}
        self._to_patch = dict(PACKAGES)

    def __enter__(self) -> Self:
        self._foreign = _foreign_roots([*self.folders, *(str(f) for f in self.folders)])
        self._builtins.update(builtin_names(), __import__=self._import, execfile=self._execfile,
                              reload=self._reload, exec=self._exec, eval=self._eval)  # fmt: skip
        self._stack.enter_context(names_of_old())
        finder = _Finder(self)
        sys.meta_path.insert(0, finder)
        self._stack.callback(sys.meta_path.remove, finder)
        self._stack.callback(self._forget)
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    def _forget(self) -> None:
        """Let later imports read the modules anew, as what they are."""
        for name in self.modules:
            sys.modules.pop(name, None)

    def run(self, path: str | os.PathLike[str], namespace: dict[str, Any]) -> None:
        """Run a file in `namespace`, the globals of a module."""
        namespace["__builtins__"] = self._builtins
        exec(self.compile_file(path), namespace)  # noqa: S102

    def run_text(self, text: str, namespace: dict[str, Any], name: str = "<string>") -> None:
        """Run a text in `namespace`; `name` stands for the file."""
        namespace["__builtins__"] = self._builtins
        exec(self._compile(text, name), namespace)  # noqa: S102

    def compile_file(self, path: str | os.PathLike[str]) -> CodeType:
        """Translate and compile a file. Raises CaffeIOError if it cannot be read."""
        try:
            source = Path(path).read_bytes()
        except OSError as error:
            raise CaffeIOError(f"cannot be read: {error.strerror}", where=str(path)) from None
        return self._compile(source, str(path))

    def _compile(self, source: bytes | str, path: str) -> CodeType:
        translation = translate(source, path)
        if self.show is not None and (changes := translation.changes()):
            self.show(changes)
        return translation.compile()

    def owns(self, origin: str) -> bool:
        """Whether a file is the user's, and is to be translated."""
        place = os.path.realpath(origin)
        if any(place.startswith(folder + os.sep) for folder in self.folders):
            return not place.startswith(_OURS + os.sep)
        return not any(place.startswith(root + os.sep) for root in self._foreign)

    def prepare(self, module: ModuleType) -> None:
        """Give a module Python 2's built-in names."""
        self.modules.add(module.__name__)
        vars(module)["__builtins__"] = self._builtins

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`import`: modules of the same package first, then those of Python 2."""
        if level == 0:
            package = str((globals or {}).get("__package__") or "")
            first = name.partition(".")[0]
            implicit = package and "absolute_import" not in (globals or {})
            if implicit and _is_beside(package, first):
                return builtins.__import__(name, globals, locals, fromlist or (), 1)
            if (found := shim(name)) is not None:
                return found
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if level == 0 and (patches := self._to_patch.pop(name.partition(".")[0], None)):
            self._stack.enter_context(patched(patches()))
        return module

    def _execfile(self, path: str, names: Any = None, local: Any = None) -> None:
        where = names if names is not None else sys._getframe(1).f_globals
        where.setdefault("__builtins__", self._builtins)
        exec(self.compile_file(path), where, local if local is not None else where)  # noqa: S102

    def _exec(self, code: Any, names: Any = None, local: Any = None) -> None:
        """exec: text is Python 2 too."""
        frame = sys._getframe(1)
        where = frame.f_globals if names is None else names
        if local is None:
            local = frame.f_locals if names is None else names
        where.setdefault("__builtins__", self._builtins)
        if isinstance(code, str | bytes):
            code = translate(code, "<string>").compile()
        exec(code, where, local)  # noqa: S102

    def _eval(self, code: Any, names: Any = None, local: Any = None) -> Any:
        """eval: text is Python 2 too."""
        frame = sys._getframe(1)
        where = frame.f_globals if names is None else names
        if local is None:
            local = frame.f_locals if names is None else names
        where.setdefault("__builtins__", self._builtins)
        if isinstance(code, str | bytes):
            code = translate(code.strip(), "<string>").compile_expression()
        return eval(code, where, local)

    def _reload(self, module: ModuleType) -> ModuleType:
        """reload: nothing for sys, which scripts reload for setdefaultencoding."""
        from importlib import reload

        return module if module is sys else reload(module)


def _is_beside(package: str, name: str) -> bool:
    full = f"{package}.{name}"
    try:
        return full in sys.modules or find_spec(full) is not None
    except (ImportError, ValueError, AttributeError):
        return False


class _Finder:
    """Finds the user's modules and has them translated."""

    def __init__(self, run: Python2) -> None:
        self.run = run

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec with another loader, for a source file of the user's."""
        if fullname.partition(".")[0] == "caffeio":  # its folders may be links to elsewhere
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader) or not spec.origin:
            return None
        if not self.run.owns(spec.origin):
            return None
        spec.loader = _Loader(fullname, spec.origin, self.run)
        return spec


class _Loader(SourceFileLoader):
    """Loads a module of Python 2; no bytecode is written."""

    def __init__(self, name: str, path: str, run: Python2) -> None:
        super().__init__(name, path)
        self._run = run

    def get_code(self, fullname: str) -> CodeType:
        """The translated code."""
        return self._run.compile_file(self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run it with Python 2's built-in names."""
        self._run.prepare(module)
        super().exec_module(module)
