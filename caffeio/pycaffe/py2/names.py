"""Modules and names that Python 3, NumPy, SciPy and scikit-image took away, for one run.

Sources: "Porting to Python 3" (docs.python.org), the release notes of NumPy 1.20 to 2.4, SciPy 1.0
to 1.12 and scikit-image 0.15 to 0.23.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from caffeio.pycaffe.py2 import scipy_misc
from caffeio.pycaffe.py2.files import Buffer, File
from caffeio.pycaffe.py2.runtime import builtin_names, whole

MODULES = {  # of Python 2 -> where they are now
    "Queue": "queue", "SocketServer": "socketserver", "ConfigParser": "configparser",
    "copy_reg": "copyreg", "thread": "_thread", "dummy_thread": "_thread", "httplib": "http.client",
    "Cookie": "http.cookies", "cookielib": "http.cookiejar", "HTMLParser": "html.parser",
    "htmlentitydefs": "html.entities", "urlparse": "urllib.parse", 
    "robotparser": "urllib.robotparser",
    "xmlrpclib": "xmlrpc.client", "BaseHTTPServer": "http.server", "Tkinter": "tkinter",
    "tkMessageBox": "tkinter.messagebox", "tkFileDialog": "tkinter.filedialog", "repr": "reprlib",
    "UserDict": "collections", "anydbm": "dbm", "cProfile": "cProfile",
}  # fmt: skip


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name, "Stands in for a module of Python 2.")
    vars(module).update(names)
    return module


def _unpickler(file: Any) -> Any:
    import pickle

    raw = file._file if isinstance(file, File) else file
    return pickle.Unpickler(raw, encoding="latin1")


def _pickle() -> ModuleType:
    """pickle that reads what Python 2 wrote, strings and arrays as well."""
    import pickle

    names = {n: getattr(pickle, n) for n in dir(pickle) if not n.startswith("_")}
    names["load"] = lambda file: _unpickler(file).load()
    names["loads"] = lambda data: pickle.loads(
        data.encode("latin1") if isinstance(data, str) else data, encoding="latin1"
    )
    return _module("pickle", **names)


def _urllib2() -> ModuleType:
    import urllib.error
    import urllib.parse
    import urllib.request

    places = (urllib.request, urllib.error, urllib.parse)
    names = {n: getattr(m, n) for m in places for n in dir(m) if not n.startswith("_")}
    return _module("urllib2", **names)


def _output(command: str) -> str:
    return subprocess.getoutput(command)


def _string_functions() -> dict[str, Any]:
    names = ("lower", "upper", "strip", "lstrip", "rstrip", "split", "replace", "find", "rfind",
             "count", "zfill", "capitalize", "ljust", "rjust", "center")  # fmt: skip
    found: dict[str, Any] = {name: getattr(str, name) for name in names}
    found["join"] = lambda words, separator=" ": separator.join(words)
    found["atoi"], found["atof"], found["atol"] = int, float, int
    for case in ("letters", "lowercase", "uppercase"):
        found[case] = getattr(string, f"ascii_{case}")
    found["maketrans"] = str.maketrans
    return found


def _shims() -> dict[str, ModuleType]:
    buffers = {"StringIO": Buffer}
    return {
        "pickle": _pickle(), "cPickle": _pickle(),
        "StringIO": _module("StringIO", **buffers), "cStringIO": _module("cStringIO", **buffers),
        "urllib2": _urllib2(),
        "commands": _module("commands", getoutput=_output,
                            getstatusoutput=subprocess.getstatusoutput),
        "__builtin__": _module("__builtin__", **builtin_names()),
        "sets": _module("sets", Set=set, ImmutableSet=frozenset),
    }  # fmt: skip


def shim(name: str) -> ModuleType | None:
    """The module of Python 2 of that name, if it is not there or not the same now."""
    if name in MODULES:
        return importlib.import_module(MODULES[name])
    return _all_shims().get(name)


_all_shims = functools.cache(_shims)


def _numpy_names() -> dict[str, Any]:
    """What NumPy 1.20 to 2.4 deprecated and took away."""
    simple: dict[str, Any] = {
        "bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str,
        "unicode": str, "long": int, "float_": np.float64, "complex_": np.complex128,
        "unicode_": np.str_, "string_": np.bytes_, "Inf": np.inf, "Infinity": np.inf,
        "infty": np.inf, "NaN": np.nan, "PINF": np.inf, "NINF": -np.inf, "PZERO": 0.0,
        "NZERO": -0.0, "product": np.prod, "cumproduct": np.cumprod, "alltrue": np.all,
        "sometrue": np.any, "row_stack": np.vstack, "round_": np.round, "rank": np.ndim,
        "asscalar": lambda a: a.item(), "msort": lambda a: np.sort(a, axis=0),
        "asfarray": lambda a, dtype=np.float64: np.asarray(a, dtype=dtype),
        "in1d": lambda a, b, assume_unique=False, invert=False: np.isin(
            np.ravel(a), b, assume_unique=assume_unique, invert=invert),
        "float96": np.longdouble, "float128": np.longdouble,
        "issubclass_": lambda a, b: isinstance(a, type) and issubclass(a, b),
    }  # fmt: skip
    if hasattr(np, "trapezoid"):
        simple["trapz"] = np.trapezoid
    return simple


def _fromstring(original: Callable[..., Any]) -> Callable[..., Any]:
    """numpy.fromstring: without a separator the bytes of an array, as a copy."""

    def fromstring(data: Any, dtype: Any = float, count: int = -1, sep: str = "") -> Any:
        if sep:
            return original(data, dtype=dtype, count=count, sep=sep)
        raw = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(raw, dtype=dtype, count=count).copy()

    return fromstring


def _numpy_load(original: Callable[..., Any]) -> Callable[..., Any]:
    """numpy.load with the defaults of NumPy before 1.16.3, and Python 2's strings."""

    def load(file: Any, mmap_mode: Any = None, allow_pickle: bool = True, **options: Any) -> Any:
        raw = file._file if isinstance(file, File) else file
        options.setdefault("encoding", "latin1")
        return original(raw, mmap_mode=mmap_mode, allow_pickle=allow_pickle, **options)

    return load


def _random_integers(low: int, high: int | None = None, size: Any = None) -> Any:
    low, high = (1, low) if high is None else (low, high)
    return np.random.randint(low, high + 1, size)


def _patches() -> Iterator[tuple[Any, str, Any]]:
    """(where, name, value) of what is missing; and of what has another default."""
    import collections
    import collections.abc
    import inspect
    import os
    import types
    import urllib.parse
    import urllib.request

    missing: list[tuple[Any, dict[str, Any]]] = [
        (np, _numpy_names()),
        (sys, {"maxint": sys.maxsize, "setdefaultencoding": lambda name: None,
               "exc_clear": lambda: None}),
        (os, {"getcwdu": os.getcwd}),
        (time, {"clock": time.perf_counter}),
        (string, _string_functions()),
        (itertools, {"izip": zip, "imap": map, "ifilter": filter,
                     "izip_longest": itertools.zip_longest,
                     "ifilterfalse": itertools.filterfalse}),
        (collections, {n: getattr(collections.abc, n) for n in collections.abc.__all__}),
        (inspect, {"getargspec": lambda f: inspect.getfullargspec(f)[:4]}),
        (types, {"StringType": str, "UnicodeType": str, "StringTypes": (str,), "IntType": int,
                 "LongType": int, "FloatType": float, "BooleanType": bool, "ListType": list,
                 "TupleType": tuple, "DictType": dict, "NoneType": type(None), "FileType": File,
                 "ClassType": type, "TypeType": type, "ObjectType": object}),
        (urllib, {"urlopen": urllib.request.urlopen, "urlretrieve": urllib.request.urlretrieve,
                  "urlencode": urllib.parse.urlencode, "quote": urllib.parse.quote,
                  "unquote": urllib.parse.unquote, "quote_plus": urllib.parse.quote_plus,
                  "unquote_plus": urllib.parse.unquote_plus}),
    ]  # fmt: skip
    for place, names in missing:
        for name, value in names.items():
            # of `product` and its like NumPy 1.26 warns
            if name not in vars(place) or value in (np.prod, np.cumprod, np.all, np.any):
                yield place, name, value
    yield np, "fromstring", _fromstring(np.fromstring)
    yield np, "load", _numpy_load(np.load)
    yield np.random, "random_integers", _random_integers
    choice = np.random.choice

    def whole_choice(a: Any, size: Any = None, *args: Any, **options: Any) -> Any:
        return choice(whole(a), whole(size), *args, **options)

    yield np.random, "choice", whole_choice


def _yaml_patches() -> Iterator[tuple[Any, str, Any]]:
    """yaml.load(text) without a Loader."""
    yaml = importlib.import_module("yaml")
    original = yaml.load

    def load(stream: Any, Loader: Any = yaml.SafeLoader) -> Any:  # noqa: N803
        return original(stream, Loader)

    yield yaml, "load", load


def _skimage_patches() -> Iterator[tuple[Any, str, Any]]:
    """imread(as_grey=...), and resizing without anti-aliasing."""
    io = importlib.import_module("skimage.io")
    transform = importlib.import_module("skimage.transform")
    read = io.imread

    def imread(fname: Any, as_grey: bool = False, **options: Any) -> Any:
        options.setdefault("as_gray", as_grey)
        return read(fname, **options)

    yield io, "imread", imread
    rescaled = transform.rescale

    def rescale(image: Any, scale: Any, *args: Any, **options: Any) -> Any:
        options.setdefault("anti_aliasing", False)
        if np.ndim(image) == 3 and np.ndim(scale) == 0:  # rows and columns, not the channels
            options.setdefault("channel_axis", -1)
        return rescaled(image, scale, *args, **options)

    yield transform, "resize", functools.partial(transform.resize, anti_aliasing=False)
    yield transform, "rescale", rescale


PACKAGES = {"yaml": _yaml_patches, "skimage": _skimage_patches}  # patched when imported


_MISSING = object()


@contextmanager
def patched(patches: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set names of modules until the end."""
    before = []
    for place, name, value in list(patches):
        before.append((place, name, vars(place).get(name, _MISSING)))
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, name, value in reversed(before):
            if value is _MISSING:
                delattr(place, name)
            else:
                setattr(place, name, value)


def _scipy_modules() -> dict[str, ModuleType]:
    """scipy.misc as it was, and scipy itself if it is not there."""
    try:
        scipy = importlib.import_module("scipy")
    except ImportError:
        scipy = _module("scipy", __path__=[])
    return {"scipy": scipy, "scipy.misc": scipy_misc}


@contextmanager
def _registered(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Have these modules in sys.modules until the end; all others stay as they are."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


@contextmanager
def names_of_old() -> Iterator[None]:
    """Give modules their old names until the end; then all is as it was."""
    with ExitStack() as stack:
        stack.enter_context(patched(_patches()))
        stack.enter_context(np.printoptions(legacy="1.13"))  # numbers without np.float32(...)
        modules = _scipy_modules()
        stack.enter_context(_registered(modules))
        misc = modules["scipy.misc"]
        stack.enter_context(patched([(modules["scipy"], "misc", misc)]))
        yield
