"""The memory of a blob: two sides with flags, as SyncedMemory, and arrays that stay views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffeio.pycaffe.memory import Memory


class Far:
    """A device that PyTorch has everywhere; its name makes Memory treat it as another side."""

    type = "cuda"


@pytest.fixture
def far(monkeypatch):
    """Tensors 'on the GPU' are other tensors in main memory, marked by a subclass."""

    class Near(torch.Tensor):
        pass

    device = Far()
    real_to, real_device = torch.Tensor.to, torch.Tensor.device

    def to(self, target, *args, **options):
        if target is device:
            return self.clone().as_subclass(Near)
        plain = self.as_subclass(torch.Tensor) if isinstance(self, Near) else self
        return real_to(plain, target, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(Near, "device", property(lambda self: device), raising=False)
    assert real_device is not None
    return device, Near


def test_zeros_where_nothing_was_written():
    memory = Memory()
    assert memory.is_blank
    assert memory.tensor((2, 3)).tolist() == [[0] * 3] * 2


def test_a_result_becomes_the_memory_unless_somebody_looks():
    memory = Memory()
    value = torch.ones(3)
    memory.put(value)
    assert memory.tensor((3,)) is value
    held = memory.array(3)
    memory.put(torch.full((3,), 2.0))
    assert held.tolist() == [2, 2, 2]
    del held
    other = torch.zeros(3)
    memory.put(other)
    assert memory.tensor((3,)) is other


def test_pinned_memory_never_moves():
    first = torch.ones(2)
    memory = Memory(first, pinned=True)
    memory.put(torch.tensor([3.0, 4.0]))
    assert first.tolist() == [3, 4]


def test_growing_leaves_old_arrays_alone():
    memory = Memory()
    old = memory.array(2)
    old[...] = 5
    assert memory.array(4).tolist() == [0] * 4
    assert old.tolist() == [5, 5]


def test_zero_shows_at_once_where_somebody_looks():
    memory = Memory()
    memory.put(torch.ones(2))
    held = memory.array(2)
    memory.zero(2)
    assert held.tolist() == [0, 0]
    del held
    memory.put(torch.ones(2))
    memory.zero(2)
    assert memory.is_blank


def test_later_is_computed_when_asked_for_and_dropped_when_overwritten():
    calls = []

    def make():
        calls.append(1)
        return torch.full((2,), 9.0)

    memory = Memory()
    memory.later(make)
    assert not calls
    memory.put(torch.zeros(2))
    assert memory.tensor((2,)).tolist() == [0, 0]
    assert not calls
    memory.later(make)
    assert memory.array(2).tolist() == [9, 9]
    assert len(calls) == 1


def test_channels_last_results_are_arrays_in_the_blobs_order():
    memory = Memory()
    value = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    memory.put(value)
    assert memory.tensor((1, 2, 3, 4)) is value
    assert memory.array(24).tolist() == list(range(24))


def test_a_guarded_tensor_is_not_handed_out():
    memory = Memory()
    kept = torch.ones(2)
    memory.put(kept)
    memory.guarded = True
    memory.array(2)[...] = 5
    assert kept.tolist() == [1, 1]
    assert memory.tensor((2,)).tolist() == [5, 5]


def test_copies_to_the_gpu_are_made_when_they_are_wanted(far):
    device, near_class = far
    memory = Memory()
    memory.put(torch.ones(2))
    near = memory.tensor((2,), device)
    assert isinstance(near, near_class)
    assert memory.tensor((2,), device) is near  # nothing has changed: no copy
    memory.array(2)[...] = 3  # the array counts as newer
    assert memory.tensor((2,), device).tolist() == [3, 3]


def test_results_of_the_gpu_come_back_into_held_arrays(far):
    near_class = far[1]
    memory = Memory()
    held = memory.array(2)
    memory.put(torch.full((2,), 4.0).as_subclass(near_class))
    assert held.tolist() == [0, 0]  # as in Caffe: until .data is asked for
    assert memory.array(2).tolist() == [4, 4]
    assert held.tolist() == [4, 4]


def test_params_changed_on_the_gpu(far):
    device, _ = far
    memory = Memory(torch.ones(2), pinned=True)
    host = memory.array(2)
    near = memory.tensor((2,), device)
    near.mul_(2)
    memory.changed_on(device)
    assert memory.array(2).tolist() == host.tolist() == [2, 2]


def test_arrays_are_float32_and_writable():
    array = Memory().array(3)
    assert array.dtype == np.float32
    assert array.flags.writeable
