"""What real Caffe logs while a data layer is set up, and when it begins its data again.

Sources: src/caffe/layers/{data,image_data,hdf5_data,window_data}_layer.cpp, util/hdf5.cpp,
data_transformer.cpp.
"""

from __future__ import annotations

from collections import Counter

from caffeio.data.base import DataSource
from caffeio.data.sources.hdf5_data import Hdf5Source
from caffeio.data.sources.image_data import ImageSource
from caffeio.data.sources.window_data import WindowSource
from caffeio.log.glog import Log, stream_float
from caffeio.proto import caffe_pb2 as pb

_CLASSES = {"f": "H5T_FLOAT", "i": "H5T_INTEGER", "u": "H5T_INTEGER"}


def log_mean_file(log: Log, param: pb.LayerParameter) -> None:
    """The transformer reads its mean when the layer is made."""
    mean = param.transform_param.mean_file
    if mean and param.type in ("Data", "ImageData", "MemoryData", "WindowData"):
        log.info("data_transformer.cpp:25", f"Loading mean file from: {mean}")


def log_set_up(log: Log, param: pb.LayerParameter, source: DataSource) -> None:
    """The lines before "output data size"."""
    if isinstance(source, ImageSource):
        _log_images(log, param.image_data_param, source)
    elif isinstance(source, Hdf5Source):
        _log_hdf5(log, param.hdf5_data_param.source, source)
    elif isinstance(source, WindowSource):
        _log_windows(log, param.window_data_param, source)


def _log_images(log: Log, p: pb.ImageDataParameter, source: ImageSource) -> None:
    log.info("image_data_layer.cpp:38", f"Opening file {p.source}")
    if p.shuffle:
        log.info("image_data_layer.cpp:53", "Shuffling data")
    log.info("image_data_layer.cpp:63", f"A total of {source.epoch_size} images.")
    if source.skipped is not None:
        text = f"Skipping first {source.skipped} data points."
        log.info("image_data_layer.cpp:70", text)


def _log_hdf5(log: Log, path: str, source: Hdf5Source) -> None:
    place = "hdf5_data_layer.cpp:81"
    log.info(place, f"Loading list of HDF5 filenames from: {path}")
    log.info(place, f"Number of HDF5 files: {source.file_count}")
    for kind in source.kinds:
        log.once("hdf5.cpp:33", f"Datatype class: {_CLASSES[kind]}")


def _log_windows(log: Log, p: pb.WindowDataParameter, source: WindowSource) -> None:
    place, windows = "window_data_layer.cpp:53", source.windows
    log.info(
        place,
        "Window data layer:\n"
        f"  foreground (object) overlap threshold: {stream_float(p.fg_threshold)}\n"
        f"  background (non-object) overlap threshold: {stream_float(p.bg_threshold)}\n"
        f"  foreground sampling fraction: {stream_float(p.fg_fraction)}\n"
        f"  cache_images: {int(p.cache_images)}\n"
        f"  root_folder: {p.root_folder}",
    )
    for index, path, sizes, count in windows.heads[::100]:
        sized = " ".join(map(str, sizes))
        text = f"num: {index} {p.root_folder}{path} {sized} windows to process: {count}"
        log.info(place, text)
    log.info(place, f"Number of images: {windows.heads[-1][0] + 1}")
    boxes = [*windows.foreground, *windows.background]
    for label, count in sorted(Counter(box.label for box in boxes).items()):
        log.info(place, f"class {label} has {count} samples")
    log.info(place, f"Amount of context padding: {p.context_pad}")
    log.info(place, f"Crop mode: {p.crop_mode}")


def log_window_mean(log: Log, param: pb.LayerParameter) -> None:
    """WindowData reads the mean again, for itself."""
    mean = param.transform_param.mean_file
    if mean and param.type == "WindowData":
        log.info("window_data_layer.cpp:196", f"Loading mean file from: {mean}")


def tell_restarts(log: Log, source: DataSource) -> None:
    """Log each time that a database is begun again."""
    place, text = "data_layer.cpp:73", "Restarting data prefetching from start."
    source.on_restart = lambda: log.info(place, text)
