"""TrainingState: what the parts of a training share while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from caffeio.log.glog import Log
from caffeio.net.net import Net
from caffeio.profiles import Profile
from caffeio.proto import caffe_pb2 as pb
from caffeio.solver.make import CaffeOptimizer
from caffeio.solver.schedule import RateState
from caffeio.training.distributed import World
from caffeio.training.events import Events
from caffeio.training.job import Job
from caffeio.training.kept import Kept
from caffeio.training.loss_window import LazyLoss


@dataclass
class TrainingState:
    """One training that has been built: display, tests, snapshots and the loop work on it.

    Nothing is missing: it is made when the nets and the optimizer are there. The Trainer owns it.
    """

    job: Job
    world: World
    log: Log
    events: Events
    net: Net
    test_nets: list[Net]
    optimizer: CaffeOptimizer
    smoothed: LazyLoss
    rates: RateState = field(default_factory=RateState)
    iter: int = 0  # updates done so far
    whole: bool = True  # False within an update, when some blobs are already those of the next one
    kept: Kept = field(init=False)

    def __post_init__(self) -> None:
        self.kept = Kept(self.net, self.rates)

    @property
    def param(self) -> pb.SolverParameter:
        """The solver, with all changes made."""
        return self.job.param

    @property
    def profile(self) -> Profile:
        """Whose numbers are computed."""
        return self.job.profile

    @property
    def shows_as_nvidia(self) -> bool:
        """Whether the lines about iterations are NVIDIA's."""
        return self.profile.display_rule == "nvidia"
