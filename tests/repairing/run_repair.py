"""One repair of a tiny VLM; as a script, in a process of its own (see test_processes)."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from repairing.tiny import pruned_pair, samples, without_dropout

from ressa.processes import leave
from ressa.repairing import RepairConfig, repair, training


def kill_at(step: int) -> type[TrainerCallback]:
    class Killer(training.Progress):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    return Killer


def run_repair(options: dict) -> dict:
    """The loss curve, a number for each parameter of the repaired model, and whether its zeros are the masks'."""
    options = dict(options)
    work_dir, family = options.pop("work_dir", None), options.pop("family", "instructblip")
    dropout = options.pop("dropout", True)
    pruned, masks, dense = pruned_pair(family)
    if not dropout:
        without_dropout(pruned.model)
    config = RepairConfig(precision="fp32", **{"device": "cpu"} | options)
    result = repair(pruned, masks, dense, samples(24), config, work_dir=work_dir and Path(work_dir))
    weights = [parameter.detach().double().abs().sum().item() for parameter in result.vlm.model.parameters()]
    layers = {name: result.vlm.model.get_submodule(name) for name in masks}
    kept = all(torch.equal(layers[name].weight != 0, mask) for name, mask in masks.items())
    return {"history": result.history, "weights": weights, "kept": kept, "teacher": result.teacher}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    kill, output = given.pop("kill_at", None), given.pop("output")
    if kill is not None:
        training.Progress = kill_at(kill)  # type: ignore[misc]
    made = run_repair(given)
    if int(os.environ.get("RANK", "0")) == 0:
        Path(output).write_text(json.dumps(made))
    leave(0)
