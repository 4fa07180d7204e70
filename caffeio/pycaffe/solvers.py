"""The six solvers of pycaffe: a training whose net and gradients scripts may change in between.

The loop, tests, log and snapshots are the trainer's; nets are live. Sources: src/caffe/solver.cpp,
python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from caffeio.boost_random import CaffeRng
from caffeio.errors import CaffeIOError
from caffeio.log.debug_info import log_backward, log_forward
from caffeio.log.glog import NULL_LOG
from caffeio.net.net import Net as CaffeNet
from caffeio.net.recipe import NetRecipe
from caffeio.pycaffe.blob import Blob
from caffeio.pycaffe.live_net import CaffeError, LiveNet
from caffeio.pycaffe.nets import Net
from caffeio.pycaffe.state import compute_device, glog, state
from caffeio.pycaffe.worker_share import own_batches, own_records
from caffeio.training.build import NetBuilder
from caffeio.training.distributed import World
from caffeio.training.iteration import Iteration
from caffeio.training.job import read_job
from caffeio.training.options import TrainOptions
from caffeio.training.trainer import Trainer

Callback = Callable[[], Any]


class LiveBuilder(NetBuilder):
    """Builds live nets; the test nets share the training net's params when they are run."""

    def own_batches(self, recipe: NetRecipe) -> NetRecipe:
        """Divide batches by `caffe.set_solver_count`: this process is one of so many."""
        return own_batches(recipe)

    def make(self, recipe: NetRecipe) -> CaffeNet:
        """Build one net."""
        data = own_records(recipe, self.data)
        net = recipe.build(rng=self.rng, data=data, net_class=LiveNet)
        assert isinstance(net, LiveNet)
        net.dialect = self.job.dialect
        return net

    def share(self, train: CaffeNet, tests: Sequence[CaffeNet]) -> None:
        """Do nothing: real Caffe shares at every test."""


class LiveIteration(Iteration):
    """One iteration on the diffs that lie in the blobs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.callbacks: list[tuple[Callback, Callback]] = []
        assert isinstance(self.state.net, LiveNet)
        self.net = self.state.net
        # what Caffe leaves in the diffs is the update that was applied
        self.state.optimizer.keep_diff = True
        self.pairs = [(item, self.net.blob_of[id(item.tensor)]) for item in self.net.learnable]

    def forward_backward(self) -> Tensor:
        """Run iter_size batches; gradients add up in the diffs, the mean loss is returned."""
        self.net.clear_param_diffs()
        for on_start, _ in self.callbacks:
            on_start()
        self._keep()
        size = self.state.param.iter_size
        trace = bool(self.state.param.debug_info) and self.display.on_grid
        self.net.keep_trace = trace
        total: Tensor | None = None
        for _ in range(size):
            part = self._live_batch(trace)
            total = part if total is None else total + part
        assert total is not None
        return total if size == 1 else total / size

    def _keep(self) -> None:
        """Keep what a forward changes, for a snapshot if it fails; none is tried on a GPU."""
        if compute_device().type == "cpu":
            self.net.to_host()
            self.state.kept.begin()
        else:  # the copies would cost more than they are worth
            self.state.whole = False

    def _live_batch(self, trace: bool) -> Tensor:
        loss = self.net.run_forward()
        device = compute_device()
        self.outputs = {n: self.net.live[n].values(device) for n in self.net.graph.outputs}
        if trace:
            log_forward(self.state.log, self.net)
        self.net.run_backward()
        if trace:
            self._lend_gradients(device)
            log_backward(self.state.log, self.net)
        return loss

    def update(self) -> float:
        """Call who waits for the gradients, then apply them; returns the printed rate."""
        for _, on_gradients_ready in self.callbacks:
            on_gradients_ready()
        return self.apply()

    def apply(self) -> float:
        """Apply the gradients that lie in the diffs."""
        device = compute_device()
        self._lend_gradients(device)
        printed = super().update()
        optimizer = self.state.optimizer
        for i, (item, blob) in enumerate(self.pairs):
            blob.memory["data"].changed_on(device)
            self._leave_update(i, item.tensor, blob, optimizer, device)
            item.tensor.grad = None
        return printed

    def _lend_gradients(self, device: torch.device) -> None:
        """Let the optimizer work on the memory of the diffs."""
        for item, blob in self.pairs:
            value = blob.values(device)
            if item.tensor.data_ptr() != value.data_ptr():
                item.tensor.data = value.view(item.tensor.shape)
            memory = blob.memory["diff"]
            item.tensor.grad = None if memory.is_blank else memory.tensor(blob.shape, device)

    @staticmethod
    def _leave_update(
        index: int, tensor: Tensor, blob: Blob, optimizer: Any, device: torch.device
    ) -> None:
        """Let the diff be the update that was applied; it is copied when somebody looks."""
        update = optimizer.update_of(index)
        memory = blob.memory["diff"]
        if tensor.grad is not None and update.data_ptr() == tensor.grad.data_ptr():
            memory.changed_on(device)
        else:
            memory.later(lambda: update.detach().view(blob.shape))


class LiveTrainer(Trainer):
    """The trainer of live nets."""

    builder = LiveBuilder
    loop = LiveIteration
    iteration: LiveIteration

    def _random_numbers(self, seed: int, world: World) -> CaffeRng | None:
        """Those of set_random_seed, unless the solver has a random_seed."""
        if seed >= 0:
            state.rng = super()._random_numbers(seed + state.solver_rank, world)
        return state.rng

    def test_all(self) -> bool:
        """Run every test net on the training net's params."""
        if state.solver_rank:
            return True
        for net in self.test_nets:
            net.share_trained_layers_with(self.net)
        return super().test_all()


class SolverParameter:
    """The few fields of a solver that scripts may read; base_lr may be set."""

    def __init__(self, message: Any) -> None:
        self._message = message

    @property
    def max_iter(self) -> int:
        """The iteration at which solve() stops."""
        return int(self._message.max_iter)

    @property
    def display(self) -> int:
        """After how many iterations the loss is shown."""
        return int(self._message.display)

    @property
    def layer_wise_reduce(self) -> bool:
        """Whether gradients are exchanged layer by layer."""
        return bool(self._message.layer_wise_reduce)

    @property
    def base_lr(self) -> float:
        """The rate that lr_policy starts from."""
        return float(self._message.base_lr)

    @base_lr.setter
    def base_lr(self, value: float) -> None:
        self._message.base_lr = value


class Solver:
    """Trains the net of a solver file; its class is its type, whatever the file says.

    Raises RuntimeError where Caffe's process would end.
    """

    type_name = ""

    def __init__(self, file: str | os.PathLike[str], *, _type: str | None = None) -> None:
        path = os.fsdecode(file)
        if not os.path.exists(path):
            raise RuntimeError(f"Could not open file {path}")
        try:
            job = read_job(path, TrainOptions(allow_python=True))
            type_name = _type or self.type_name
            if job.param.type != type_name:
                job.param.type = type_name
            log = glog if not state.solver_rank else NULL_LOG
            self._trainer = LiveTrainer(job, world=World(device=compute_device()), log=log)
        except CaffeIOError as error:
            raise CaffeError(str(error)) from None
        self._net = Net._of(self._live)
        self._tests = [Net._of(net) for net in self._trainer.test_nets if isinstance(net, LiveNet)]

    @property
    def _live(self) -> LiveNet:
        net = self._trainer.net
        assert isinstance(net, LiveNet)
        return net

    @property
    def net(self) -> Net:
        """The training net."""
        return self._net

    @property
    def test_nets(self) -> list[Net]:
        """The test nets; they share the training net's params from their first test on."""
        return self._tests

    @property
    def iter(self) -> int:
        """How many updates have been applied."""
        return self._trainer.iter

    @property
    def param(self) -> SolverParameter:
        """The solver's fields."""
        return SolverParameter(self._trainer.param)

    @property
    def lr(self) -> float:
        """The learning rate of this iteration."""
        trainer = self._trainer
        return float(trainer.schedule.rate(trainer.iter, trainer.rates))

    def step(self, count: int) -> None:
        """Train `count` iterations; tests, display and snapshots happen as the file says."""
        self._run(lambda: self._trainer.step(int(count)))

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train to max_iter, with the last snapshot and test."""
        self._run(lambda: self._trainer.solve(resume_file))

    def restore(self, file: str | os.PathLike[str]) -> None:
        """Go on from a .solverstate."""
        self._run(lambda: self._trainer.restore(os.fsdecode(file)))

    def snapshot(self) -> None:
        """Write weights and state."""
        self._run(self._trainer.snapshot)

    def apply_update(self) -> None:
        """Update the params by what their diffs hold now."""
        self._run(self._trainer.iteration.apply)
        self._trainer.iter += 1

    def share_weights(self, net: Net) -> None:
        """Let `net` use the memory of this solver's params for the layers of the same name."""
        net.share_with(self._net)

    def add_callback(self, on_start: Any, on_gradients_ready: Callback | None = None) -> None:
        """Call `on_start` before every iteration and `on_gradients_ready` before every update.

        Takes an NCCL object too.
        """
        if on_gradients_ready is None:
            on_start, on_gradients_ready = on_start.on_start, on_start.on_gradients_ready
        assert on_gradients_ready is not None
        self._trainer.iteration.callbacks.append((on_start, on_gradients_ready))

    @staticmethod
    def _run(work: Callable[[], Any]) -> None:
        try:
            work()
        except CaffeIOError as error:
            raise CaffeError(str(error)) from None


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum."""

    type_name = "SGD"


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient."""

    type_name = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad."""

    type_name = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp."""

    type_name = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta."""

    type_name = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam."""

    type_name = "Adam"


_CLASSES = {
    cls.type_name: cls
    for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(file: str | os.PathLike[str]) -> Solver:
    """The solver of the type that the file names."""
    from caffeio.proto.files import read_solver

    path = os.fsdecode(file)
    if not os.path.exists(path):
        raise RuntimeError(f"Could not open file {path}")
    try:
        type_name = read_solver(path).message.type
    except CaffeIOError as error:
        raise CaffeError(str(error)) from None
    if type_name in _CLASSES:
        return _CLASSES[type_name](path)
    return Solver(path, _type=type_name)
