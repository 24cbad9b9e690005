"""A slow pruning run in a process of its own, so that a test can kill it: `python killed_run.py WORK_DIR`."""

import sys
import time

import torch
from families import FAMILIES
from torch import nn

from ressa import pruning
from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.sparsity import NM, Plan

FAMILY = FAMILIES["instructblip-t5"]


def plan_of(model: nn.Module) -> Plan:
    return per_tower(find_anatomy(model), model, dict.fromkeys(("vision", "connector", "language"), NM(2, 4)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep = pruning.FinishedBlocks.keep

    def keep_slowly(self, *arguments):
        keep(self, *arguments)
        time.sleep(0.5)

    pruning.FinishedBlocks.keep = keep_slowly
    model = FAMILY.model()
    batches = [FAMILY.batch(0), FAMILY.batch(10)]
    pruning.prune(model, batches, plan=plan_of(model), method="sparsegpt", work_dir=sys.argv[1])
