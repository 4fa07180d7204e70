"""Python 2 scripts: what they compute, and what is put back afterwards."""

from __future__ import annotations

import itertools
import os
import pickle
import string
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from caffeio.errors import CaffeIOError, ParseError, UnsupportedError
from caffeio.pycaffe.py2 import Python2, translate


def run(source: str, folder: Path | None = None) -> dict[str, Any]:
    """The globals after a script of Python 2."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with Python2([folder] if folder else []) as py2:
        py2.run_text(dedent(source), names)
    return names


def value(expression: str, before: str = "") -> Any:
    return run(f"{dedent(before)}\nx = {expression}\n")["x"]


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("7 / 2", 3), ("-7 / 2", -4), ("7 / 2.0", 3.5), ("7 // 2", 3), ("True / 2", 0),
        ("2 ** 3 / 3 * 2", 4), ("10L / 4", 2), ("0777", 511), ("0x1FL", 31), ("`1 + 1`", "2"),
        ("1 <> 2", True), ("ur'\\d' + u'a'", "\\da"), ("{1: 2}.keys()[0]", 1),
        ("{1: 2}.keys() + {3: 4}.values()", [1, 4]), ("{1: 2}.items()[0]", (1, 2)),
        ("list({1: 2}.iteritems())", [(1, 2)]), ("{1: 2}.has_key(1)", True),
        ("{1: 2}.itervalues().next()", 2), ("len({1: 2}.viewkeys())", 1),
        ("map(lambda a: a * 2, [1, 2])", [2, 4]), ("map(None, [1, 2], [3])", [(1, 3), (2, None)]),
        ("map(lambda a, b: (a, b), [1, 2], [3])", [(1, 3), (2, None)]),
        ("filter(None, [0, 1])", [1]), ("filter(lambda c: c > 'a', 'abc')", "bc"),
        ("filter(None, (0, 1))", (1,)), ("zip([1, 2], 'ab')[1]", (2, "b")),
        ("range(3) + [5]", [0, 1, 2, 5]), ("list(xrange(2))", [0, 1]),
        ("reduce(lambda a, b: a + b, [1, 2, 3])", 6), ("cmp(1, 2)", -1),
        ("round(2.5)", 3.0), ("round(-0.5)", -1.0), ("round(2.675, 2)", 2.67),
        ("round(0.125, 2)", 0.13), ("round(1250, -2)", 1300.0), ("round(float('inf'))", np.inf),
        ("isinstance('a', basestring)", True), ("isinstance(u'a', unicode)", True),
        ("isinstance(3, (int, long))", True), ("unichr(97)", "a"), ("'a'.decode('utf-8')", "a"),
        ("b'a'.decode('utf-8')", "a"), ("sorted([3, 1, 2], lambda a, b: b - a)", [3, 2, 1]),
        ("sorted([3, -1], cmp, abs)", [-1, 3]), 
        ("len > 0", True), ("None < -1", True), ("3 <= 'a'", True),
        ("'a' < 3", False), ("1 < 2", True), ("(1,) > [1]", True), ("apply(max, (1, 2))", 2),
        ("(lambda (a, b): a + b)((1, 2))", 3), ("intern('a')", "a"),
        ("str(b'\\xff')", b"\xff"), ("str(bytearray(b'a'))", b"a"), ("str(1.5)", "1.5"),
        ("isinstance(b'a', str)", True), ("isinstance('a', (int, str))", True),
        ("type('a') == str", True), ("str.join(',', ['a', 'b'])", "a,b"),
        ("map(str, [1])", ["1"]),
    ],
)  # fmt: skip
def test_expressions(expression: str, wanted: Any) -> None:
    found = value(expression)
    assert found == wanted and type(found) is type(wanted)


def test_statements(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(
        """
        import sys
        print "a", 1,
        print "b"
        print
        print >>sys.stderr, "err"
        print ("one")
        print ("a", 1)
        try:
            raise ValueError, "why"
        except (ValueError, KeyError), error:
            text = str(error)
        exec "y = 7 / 2" in globals()
        class Old:
            def next(self): return 5
            def __iter__(self): return self
            def __nonzero__(self): return False
            def __div__(self, other): return "divided"
        o = Old()
        first = iter(o).next(), not o, o / 2
        l = [3, 1, 2]
        l.sort(lambda a, b: cmp(b, a))
        def f((a, b)): return a - b
        z = f((5, 3))
        i = 7
        i /= 2
        """
    )
    out = capsys.readouterr()
    assert out.out == "a 1 b\n\none\n('a', 1)\n" and out.err == "err\n"
    assert (found["text"], found["first"]) == ("why", (5, True, "divided"))
    assert (found["l"], found["z"], found["i"]) == ([3, 2, 1], 2, 3)


def test_texts_are_python_2_too() -> None:
    names = run(
        """
        exec 'y = 7 / 2'
        space = {'a': 7}
        exec 'print_ = a / 2' in space
        z = eval(' 7 / 2 '), eval('a / 2', {'a': 9}), eval(compile('1 + 1', 's', 'eval'))
        def f(a):
            return eval('a / 2L')
        w = f(5)
        """
    )
    assert (names["y"], names["space"]["print_"], names["z"], names["w"]) == (3, 3, (3, 4, 2), 2)
    with pytest.raises(SyntaxError, match="not an expression: 'x = 1'"):
        value("eval('x = 1')")


def test_arrays_divide() -> None:
    names = run(
        """
        import numpy as np
        a = np.arange(5)
        whole = a / 2
        half = a / 2.0
        b = a * 1.0
        c = b
        b /= 2
        d = np.arange(5)
        e = d
        d /= 2
        scalar = np.int64(7) / 2
        calls = []
        def index():
            calls.append(1)
            return 0
        h = np.zeros(2)
        h[index()] /= 3
        """
    )
    assert names["whole"].tolist() == [0, 0, 1, 1, 2] and names["whole"].dtype.kind == "i"
    assert names["half"].tolist() == [0, 0.5, 1, 1.5, 2]
    assert names["c"] is names["b"] and names["c"].tolist() == [0, 0.5, 1, 1.5, 2]  # in place
    assert names["e"] is names["d"] and names["e"].tolist() == [0, 0, 1, 1, 2]
    assert names["scalar"] == 3 and names["calls"] == [1]


def test_division_from_the_future() -> None:
    names = run(
        """
        from __future__ import division, print_function
        x = 7 / 2
        y = 7
        y /= 2
        print("a", end="")
        """
    )
    assert (names["x"], names["y"]) == (3.5, 3.5)


def test_print_may_be_a_function_without_being_imported() -> None:
    assert run("print('a', 'b', end='')\nx = 1 / 2")["x"] == 0


def test_tabs_count_eight() -> None:
    source = "if True:\n\tx = 1\n        y = 2\ntext = '''\n\ttab'''\n"
    names = run(source)
    assert (names["x"], names["y"], names["text"]) == (1, 2, "\n\ttab")


def test_numpy_has_its_old_names() -> None:
    before = set(vars(np))
    load = np.load
    names = run(
        """
        import numpy as np
        a = np.zeros(2, np.int), np.zeros(2, dtype=np.float), np.array([True], np.bool)
        b = np.fromstring('\\x01\\x02', np.uint8)
        b[0] = 5
        c = np.fromstring('1 2', sep=' ')
        d = np.arange(3, dtype=np.uint8).tostring()
        e = np.product([2, 3]), np.asscalar(np.array([4])), np.NaN
        f = 3 <= np.random.random_integers(3, 4) <= 4
        """
    )
    assert [x.dtype.kind for x in names["a"]] == ["i", "f", "b"]
    assert names["b"].tolist() == [5, 2] and names["c"].tolist() == [1, 2]
    assert names["d"] == b"\0\1\2" and names["e"][:2] == (6, 4) and names["f"]
    assert set(vars(np)) == before and np.load is load and not hasattr(np, "float")
    assert not hasattr(itertools, "izip") and not hasattr(string, "letters")
    assert not hasattr(sys, "maxint")


def test_modules_of_old(tmp_path: Path) -> None:
    old = tmp_path / "old.pkl"
    # what Python 2's cPickle wrote for {'a': '\xff', 'b': numpy.uint8 array [1, 2]}
    content = {"a": "\xff"}
    old.write_bytes(pickle.dumps(content, 2).replace(b"X\x02\x00\x00\x00\xc3\xbf", b"U\x01\xff"))
    names = run(
        f"""
        import cPickle, StringIO, cStringIO, Queue, ConfigParser, urllib2, urlparse, commands
        import itertools, string, sys, os, collections, types, urllib
        import cPickle as pickle
        from StringIO import StringIO as S
        reload(sys)
        sys.setdefaultencoding('utf8')
        a = cPickle.load(open({str(old)!r}))
        b = cPickle.loads(cPickle.dumps([1], 2))
        s = S()
        s.write('a\\nb')
        s.seek(0)
        c = s.readlines(), s.getvalue()
        t = S()
        t.write(b'\\xff\\x00')
        d = t.getvalue()
        e = list(itertools.izip([1], [2])), string.letters[:3], sys.maxint > 0, os.getcwdu()
        f = issubclass(dict, collections.Mapping), isinstance('', types.StringTypes)
        g = urllib.quote('a b'), urlparse.urlparse('http://x/y').netloc
        h = string.join(['a', 'b'], '-')
        """
    )
    assert names["a"] == {"a": "\xff"} and names["b"] == [1]
    assert names["c"] == (["a\n", "b"], "a\nb") and names["d"] == b"\xff\x00"
    assert names["e"][:3] == ([(1, 2)], "abc", True) and names["f"] == (True, True)
    assert names["g"] == ("a%20b", "x") and names["h"] == "a-b"
    assert "cPickle" not in sys.modules


def test_files(tmp_path: Path) -> None:
    names = run(
        f"""
        name = {str(tmp_path / "f")!r}
        with open(name, 'w') as f:
            f.write('text\\r\\n')
            f.write(b'\\xff\\x00')
        raw = open(name).read()
        line = open(name).readline()
        wide = open(name, 'rU').readline()
        g = file(name, 'wb')
        g.write('more')
        g.close()
        more = [l for l in open(name)], open(name, 'rb').read()
        import numpy as np
        np.save(name + '.npy', np.array([{{'a': 1}}], dtype=object))
        loaded = np.load(open(name + '.npy'))[0]
        """
    )
    assert names["raw"] == b"text\r\n\xff\x00" and names["line"] == "text\r\n"
    assert names["wide"] == "text\n" and names["more"] == (["more"], b"more")
    assert names["loaded"] == {"a": 1} and names["g"].closed


def test_modules_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("print 'hello'\nhalf = 7 / 2\nnames = {1: 2}.keys()[0]\n")
    package = tmp_path / "lib" / "pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import inner\nfrom inner import third\n")
    (package / "inner.py").write_text("import string\nthird = 10 / 3\n")
    (package / "string.py").write_text("mine = True\n")  # hides the library's, as in Python 2
    (package / "absolute.py").write_text(
        "from __future__ import absolute_import\nimport string\nletters = string.letters\n"
    )
    (tmp_path / "main.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path / 'lib')!r})\n"
        "import helper, pack, pack.absolute\nexecfile('more.py')\n"
        "x = helper.half, pack.third, pack.inner.string.mine, len(pack.absolute.letters), more\n"
    )
    (tmp_path / "more.py").write_text("more = 9 / 2\n")
    shown: list[str] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "path", [str(tmp_path), *path])
        with Python2([tmp_path], show=shown.append) as py2:
            py2.run(tmp_path / "main.py", names)
    assert names["x"] == (3, 3, True, 52, 4)
    assert not {"helper", "pack", "pack.inner"} & set(sys.modules)
    assert not list(tmp_path.rglob("*.pyc"))
    assert any("-print 'hello'\n+print('hello')" in text for text in shown)
    assert any(text.endswith("helper.py:3: .keys() is a list") for text in shown)


def test_packages_of_others_are_left_alone(tmp_path: Path) -> None:
    with Python2([tmp_path]) as py2:
        assert not py2.owns(np.__file__) and not py2.owns(string.__file__)
        assert not py2.owns(translate.__code__.co_filename)
        assert py2.owns(str(tmp_path / "x.py")) and py2.owns("/somewhere/else/x.py")


def test_what_is_shown() -> None:
    changes = translate("print 1\nx = 1 / 2\ny = 1 / 2; z = 2 / 3\n", "s.py").changes()
    assert changes == (
        "--- s.py\n+++ s.py (Python 3)\n@@ -1 +1 @@\n-print 1\n+print(1)\n"
        "s.py:2: / divides as in Python 2\ns.py:3: / divides as in Python 2"
    )
    assert translate("x = 1\n", "s.py").changes() == ""


def test_encodings() -> None:
    assert value("1") == 1
    source = "# -*- coding: latin-1 -*-\nx = 'caf\xe9'\n".encode("latin-1")
    assert "caf\xe9" in translate(source, "s.py").text
    assert "caf\xe9" in translate("x = 'caf\xe9'".encode("latin-1"), "s.py").text
    assert "caf\xe9" in translate(b"\xef\xbb\xbf" + "x = 'caf\xe9'\r\n".encode(), "s.py").text
    with pytest.raises(ParseError, match=r"^s\.py:1:1: unknown encoding 'nope'$"):
        translate(b"# coding: nope\n", "s.py")


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("x = 1\ny = = 2\n", r"s\.py:2:5: is not Python 2: bad syntax near '='"),
        ("if 1:\n    x = 1\n  y = 2\n", r"s\.py:3:\d+: is indented wrongly"),
        ("x = '''a\n", r"s\.py:1:\d+: is not Python 2"),
        ("x = (\n", r"s\.py:\d+:\d+: is not Python 2"),
        ("def f():\n    yield = 3\n", r"s\.py:2:\d+: is not"),
    ],
)
def test_errors_name_the_place(source: str, where: str) -> None:
    with pytest.raises(ParseError, match=f"^{where}"):
        translate(source, "s.py")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with Python2() as py2, pytest.raises(CaffeIOError, match=r"none.py: cannot be read"):
        py2.run(tmp_path / "none.py", {})


def test_tracebacks_name_the_line() -> None:
    names: dict[str, Any] = {}
    with Python2() as py2, pytest.raises(ZeroDivisionError) as error:
        py2.run_text("print 'a'\n\n\nx = 1 / 0\n", names, name="script.py")
    places = [(entry.path, entry.lineno + 1) for entry in error.traceback]
    assert ("script.py", 4) in [(str(path), line) for path, line in places]


def test_images_of_scipy_misc(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    names = run(
        f"""
        import scipy.misc
        from scipy.misc import imresize
        import numpy as np
        image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        scipy.misc.imsave({str(tmp_path / "x.png")!r}, image)
        back = scipy.misc.imread({str(tmp_path / "x.png")!r})
        small = imresize(image, 50), imresize(image, (2, 3)), imresize(image, 0.5, interp='nearest')
        grey = imresize(np.array([[0.0, 1.0], [0.5, 1.0]]), 200, 'nearest')
        byte = scipy.misc.bytescale(np.array([0.0, 5.0]))
        """
    )
    np.testing.assert_array_equal(names["back"], names["image"])
    assert [x.shape for x in names["small"]] == [(2, 2, 3), (2, 3, 3), (2, 2, 3)]
    assert names["grey"].tolist() == [[0, 0, 255, 255]] * 2 + [[128, 128, 255, 255]] * 2
    assert names["byte"].tolist() == [0, 255]
    assert "scipy.misc" not in sys.modules or not hasattr(sys.modules["scipy.misc"], "imresize")


def test_without_fissix(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    module = import_module("caffeio.pycaffe.py2.translator")
    module._tool.cache_clear()
    monkeypatch.setitem(sys.modules, "fissix.refactor", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'caffeio\[py2\]'"):
        translate("x = 1", "s.py")
    module._tool.cache_clear()


def test_classes_of_str_and_whole_floats_in_numpy() -> None:
    names = run("""
        import numpy as np
        class Name(str):
            pass
        kind = np.array(["a"], dtype=str).dtype.kind
        part = np.arange(5)[:np.float64(3)]
        drawn = np.random.choice(np.arange(4), size=np.float64(2), replace=False)
    """)
    assert isinstance(names["Name"]("a"), str)
    assert names["kind"] == "U"
    assert names["part"].tolist() == [0, 1, 2]
    assert len(names["drawn"]) == 2


def test_modules_on_python_path_are_the_users_but_not_installed_ones(tmp_path, monkeypatch) -> None:
    for name, installed in (("mine", False), ("theirs", True)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"py2_{name}.py").write_text("half = 7 / 2\n")
        if installed:
            (folder / "thing-1.0.dist-info").mkdir()
        monkeypatch.syspath_prepend(folder)
    places = [tmp_path / "theirs", Path("mine")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    names = run("import py2_mine, py2_theirs\na, b = py2_mine.half, py2_theirs.half\n")
    assert (names["a"], names["b"]) == (3, 3.5)
    sys.modules.pop("py2_theirs")


def test_numbers_print_as_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    before = repr(np.float32(0.5))
    run("import numpy as np\nprint [np.float32(0.5)], np.array([1.0, -2.5])")
    assert capsys.readouterr().out == "[0.5] [ 1.  -2.5]\n"
    assert repr(np.float32(0.5)) == before
