"""The solver's test nets: their runs, and what is logged of them.

Source: src/caffe/solver.cpp (TestAll, Test), Intel's and NVIDIA's (TestDetection).
"""

from __future__ import annotations

import torch
from torch import Tensor

from caffeio.log.debug_info import log_forward
from caffeio.log.glog import stream_float
from caffeio.net.net import Net
from caffeio.training.display import outputs_as_text
from caffeio.training.events import Action, Scores
from caffeio.training.mean_average_precision import detection_map
from caffeio.training.net_lines import log_sharing
from caffeio.training.snapshots import Snapshots
from caffeio.training.state import TrainingState


class Tests:
    """Runs the test nets of one training.

    BVLC tests on the root worker alone, with that one's BatchNorm statistics; Intel and NVIDIA on
    all workers, each on its share of the records, and the results are averaged.
    """

    def __init__(self, training: TrainingState, snapshots: Snapshots) -> None:
        self.training = training
        self.snapshots = snapshots
        self.everywhere = training.profile.tests_on_all_workers
        self.detection = training.param.eval_type == "detection"

    def run_all(self, batches: int | None = None) -> bool:
        """Run every test net over `batches` (its test_iter); False if a signal asked to stop."""
        training = self.training
        if not training.test_nets:
            return True
        going = True
        if self.everywhere or training.world.is_root:
            with self.snapshots.averaged_statistics():
                for i in range(len(training.test_nets)):
                    going = self.run(i, batches) is not None
                    if not going:
                        break
        return not training.world.all_reduce_any(not going)

    def run(self, index: int, batches: int | None = None) -> Scores | None:
        """Score test net `index`; None if a signal stopped it."""
        training, net = self.training, self.training.test_nets[index]
        shown = training.iter
        if training.shows_as_nvidia and training.iter + 1 == training.param.max_iter:
            shown += 1
        training.log.info("solver.cpp:347", f"Iteration {shown}, Testing net (#{index})")
        log_sharing(training.log, net, training.net)
        batches = training.param.test_iter[index] if batches is None else batches
        net.keep_trace = bool(training.param.debug_info)
        total: dict[str, Tensor] = {}
        loss = torch.zeros((), device=training.world.device)
        for _ in range(batches):
            if self._stops():
                training.log.info("solver.cpp:400", "Test interrupted.")
                return None
            with torch.no_grad():
                outputs = net()
            if net.keep_trace:
                log_forward(training.log, net)
            loss += net.loss
            self._add(total, outputs)
        return self._score(index, batches, loss, total)

    def _stops(self) -> bool:
        """Do what signals ask for, all that are pending; whether one asks to stop."""
        stops = False
        while action := self._poll():
            if Action.SNAPSHOT in action:
                self.snapshots.write(together=self.everywhere)
            stops = stops or Action.STOP in action
        return stops

    def _poll(self) -> Action:
        own = self.training.events.poll()
        return self.training.world.all_reduce_actions(own) if self.everywhere else own

    def _add(self, total: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        for name, value in outputs.items():
            if self.detection:
                rows = [total[name]] if name in total else []
                total[name] = torch.cat([*rows, value.float()], -2)
            else:
                total[name] = total[name] + value if name in total else value.float().clone()

    def _score(self, index: int, batches: int, loss: Tensor, total: dict[str, Tensor]) -> Scores:
        training, net = self.training, self.training.test_nets[index]
        count = max(batches, 1)
        if self.detection:
            total = {name: self._mean_precision(rows) for name, rows in total.items()}
            count = 1
        if self.everywhere:
            training.world.all_reduce_mean([loss, *total.values()])
        means = {name: value / count for name, value in total.items()}
        result = Scores(
            index,
            training.iter,
            float(loss / max(batches, 1)),
            {name: value.cpu().numpy() for name, value in means.items()},
        )
        if training.param.test_compute_loss:
            training.log.info("solver.cpp:405", f"Test loss: {stream_float(result.loss)}")
        self._log_outputs(net, means)
        if training.events.test is not None:
            training.events.test(result)
        return result

    def _log_outputs(self, net: Net, means: dict[str, Tensor]) -> None:
        log = self.training.log
        head = "    [0.0]    " if self.training.shows_as_nvidia else "    "
        if log and means:
            for i, text in enumerate(outputs_as_text(net, means)):
                log.info("solver.cpp:414", f"{head}Test net output #{i}: {text}")

    def _mean_precision(self, rows: Tensor) -> Tensor:
        """The mAP of all rows of a test's DetectionEvaluate, a scalar on the worker's device."""
        training = self.training
        found = detection_map(rows.flatten(0, -2).cpu().numpy(), training.param.ap_version)
        if training.param.show_per_class_result:
            for label, value in found.by_label.items():
                training.log.info("solver.cpp:414", f"class{label}: {stream_float(value)}")
        return torch.tensor(found.mean, device=training.world.device)
