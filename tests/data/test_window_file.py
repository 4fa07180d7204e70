"""Window files that cannot be read: said when the layer is set up, with the line."""

from __future__ import annotations

import pytest

from caffeio.data.sources.window_data import parse_windows
from caffeio.errors import DataError

GOOD = "# 0\nimg/00.png\n3\n10\n12\n2\n1 0.9 0 0 5 5\n0 0.1 1 1 6 6\n"


def test_a_good_file() -> None:
    windows = parse_windows(GOOD, 0.5, 0.5)
    assert windows.paths == ["img/00.png"] and windows.channels == 3
    assert len(windows.foreground) == len(windows.background) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            GOOD.replace("img/00.png", "img/00 a.png"),
            r"line 2: expected a number, found 'a.png'; paths with blanks cannot be read",
        ),
        (GOOD.replace("0.9", "x"), "line 7: expected a number, found 'x'$"),
        (GOOD + "1 0.9", r"line 9: expected '#', found '1'"),
        (GOOD.replace("# 0", "# 1"), "a window of image 1, but images are numbered 0 to 0"),
        (GOOD.replace("\n2\n", "\n3\n"), "ends within a block"),
        ("", "is empty"),
    ],
)
def test_what_is_said(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_windows(text, 0.5, 0.5)
