"""What real Caffe dies of is one clear DataError here."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffeio.errors import DataError
from tests.data.helpers import data_layer, make_source, net, raw_lmdb
from tests.paths import GOLDEN

CASES = {
    "corrupt_jpeg": r"cannot decode the image",
    "empty_lmdb": r"LMDB '.*' is empty",
    "missing_lmdb": r"'nowhere' does not exist; looked for /.*nowhere and /.*nowhere",
    "mean_file_and_value": r"transform_param.mean_file: cannot specify mean_file and mean_value",
    "mean_file_wrong_size": r"transform_param.mean_file: the mean is .*, the image",
    "crop_larger_than_image": r"transform_param.crop_size: 9 is larger than the image",
    "varying_size_in_batch": r"sample 1 of the batch is 1 x 5 x 5|all samples of a batch must",
}


@pytest.mark.parametrize("case", CASES)
def test_golden_errors(case: str) -> None:
    folder = GOLDEN / "errors" / case
    param = net(folder / "net.prototxt").layer[0]
    with (
        pytest.raises(DataError, match=CASES[case]) as caught,
        make_source(param, phase="TRAIN", search_path=[str(folder)], where="net:1:1") as source,
    ):
        for _ in range(3):
            source.next()
    assert str(caught.value).startswith("net:1:1: layer 'd' (type Data)")


def test_batch_size_zero() -> None:
    from tests.data.helpers import data_layer

    with pytest.raises(DataError, match=r"data_param\.batch_size: a positive batch size"):
        make_source(data_layer("x", batch=0))


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ("transform_param", "rotate: true"), ("transform_param", "pad: 2"),
        ("transform_param", "crop_width: 3"), ("transform_param", "bgr2rgb: true"),
        ("transform_param", "scale_factors: 2"), ("transform_param", "random_crop_on_test: true"),
        ("data_param", "side: 7"), ("data_param", "shuffle_buffer_size: 9"),
    ],
)  # fmt: skip
def test_fields_of_forks_that_change_the_data_are_refused(
    where: str, field: str, tmp_path: Path
) -> None:
    """They were passed over, and the net learned of other images than its author meant."""
    raw_lmdb(tmp_path / "db", 2)
    more = {"transform": field} if where == "transform_param" else {"more": field}
    name = field.partition(":")[0]
    with pytest.raises(DataError, match=f"{where}.{name}: is a fork's field that is not supported"):
        make_source(data_layer(tmp_path / "db", **more))


@pytest.mark.parametrize("field", ["threads: 3", "cache: true", "prefetch: 2"])
def test_fields_that_change_no_number_are_passed_over(field: str, tmp_path: Path) -> None:
    raw_lmdb(tmp_path / "db", 4)
    with make_source(data_layer(tmp_path / "db", "rotate: false", more=field)) as source:
        assert source.top_shapes[0] == (4, 3, 8, 9)
