from __future__ import annotations

from typing import Any

import pytest

from tests.fuzz.golden_nets import arrays_of, cases_of, differences, refused

CASES = [
    pytest.param(name, case, id=f"{name}-{case['kind']}-{case['seed']}")
    for name in ("nets", "inplace")
    for case in cases_of(name)
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_as_in_real_caffe(name: str, case: dict[str, Any]) -> None:
    if "refused" in case:
        assert refused(case), case["refused"]
    else:
        assert differences(case, arrays_of(name)[str(case["seed"])]) == []
