"""The solver's test nets: their runs, and what is logged of them.

Source: src/caffe/solver.cpp (TestAll, Test), Intel's and NVIDIA's (TestDetection).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from caffeio.log.debug_info import log_forward
from caffeio.log.glog import number
from caffeio.net.net import Net
from caffeio.training.display import outputs_as_text
from caffeio.training.mean_average_precision import detection_map
from caffeio.training.net_lines import log_sharing
from caffeio.training.signals import Action

if TYPE_CHECKING:
    from caffeio.training.trainer import Trainer


@dataclass
class Scores:
    """The means of one test net's outputs."""

    net: int
    iteration: int
    loss: float
    outputs: dict[str, np.ndarray]  # by blob, in the net's order; float32


class Tests:
    """Runs the test nets of one trainer.

    BVLC and NVIDIA test on the root worker alone; Intel on all workers, each on its share of the
    records, and the results are averaged.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.everywhere = trainer.profile.tests_on_all_workers
        self.detection = trainer.param.eval_type == "detection"

    def run_all(self, batches: int | None = None) -> bool:
        """Run every test net over `batches` (its test_iter); False if a signal asked to stop."""
        trainer = self.trainer
        if not trainer.test_nets:
            return True
        going = True
        if self.everywhere or trainer.world.is_root:
            with trainer.snapshots.averaged_statistics():
                for i in range(len(trainer.test_nets)):
                    going = self.run(i, batches) is not None
                    if not going:
                        break
        return not trainer.world.agree(not going)

    def run(self, index: int, batches: int | None = None) -> Scores | None:
        """Score test net `index`; None if a signal stopped it."""
        trainer, net = self.trainer, self.trainer.test_nets[index]
        shown = trainer.iter
        if trainer.display.nvidia and trainer.iter + 1 == trainer.param.max_iter:
            shown += 1
        trainer.log.info("solver.cpp:347", f"Iteration {shown}, Testing net (#{index})")
        log_sharing(trainer.log, net, trainer.net)
        batches = trainer.param.test_iter[index] if batches is None else batches
        net.keep_trace = bool(trainer.param.debug_info)
        total: dict[str, Tensor] = {}
        loss = torch.zeros((), device=trainer.world.device)
        for _ in range(batches):
            if self._stops():
                trainer.log.info("solver.cpp:400", "Test interrupted.")
                return None
            with torch.no_grad():
                outputs = net()
            if net.keep_trace:
                log_forward(trainer.log, net)
            loss += net.loss
            self._add(total, outputs)
        return self._score(index, batches, loss, total)

    def _stops(self) -> bool:
        """Do what signals ask for, all that are pending; whether one asks to stop."""
        stops = False
        while (action := self._poll()) is not Action.NONE:
            if action is Action.SNAPSHOT:
                self.trainer.snapshots.write(together=self.everywhere)
            stops = stops or action is Action.STOP
        return stops

    def _poll(self) -> Action:
        own = self.trainer.events.poll()
        return Action(self.trainer.world.agree(own)) if self.everywhere else own

    def _add(self, total: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        for name, value in outputs.items():
            if self.detection:
                rows = [total[name]] if name in total else []
                total[name] = torch.cat([*rows, value.float()], -2)
            else:
                total[name] = total[name] + value if name in total else value.float().clone()

    def _score(self, index: int, batches: int, loss: Tensor, total: dict[str, Tensor]) -> Scores:
        trainer, net = self.trainer, self.trainer.test_nets[index]
        count = max(batches, 1)
        if self.detection:
            total = {name: self._mean_precision(rows) for name, rows in total.items()}
            count = 1
        if self.everywhere:
            trainer.world.mean([loss, *total.values()])
        means = {name: value / count for name, value in total.items()}
        result = Scores(
            index,
            trainer.iter,
            float(loss / max(batches, 1)),
            {name: value.cpu().numpy() for name, value in means.items()},
        )
        if trainer.param.test_compute_loss:
            trainer.log.info("solver.cpp:405", f"Test loss: {number(result.loss)}")
        self._log_outputs(net, means)
        if trainer.events.test is not None:
            trainer.events.test(result)
        return result

    def _log_outputs(self, net: Net, means: dict[str, Tensor]) -> None:
        log = self.trainer.log
        head = "    [0.0]    " if self.trainer.display.nvidia else "    "
        if log and means:
            for i, text in enumerate(outputs_as_text(net, means)):
                log.info("solver.cpp:414", f"{head}Test net output #{i}: {text}")

    def _mean_precision(self, rows: Tensor) -> Tensor:
        """The mAP of all rows of a test's DetectionEvaluate, a scalar on the worker's device."""
        trainer = self.trainer
        found = detection_map(rows.flatten(0, -2).cpu().numpy(), trainer.param.ap_version)
        if trainer.param.show_per_class_result:
            for label, value in found.by_label.items():
                trainer.log.info("solver.cpp:414", f"class{label}: {number(value)}")
        return torch.tensor(found.mean, device=trainer.world.device)
