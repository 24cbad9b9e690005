"""A pruning run that dies when its third block is kept: `python killed_run.py WORK_DIR`."""

import itertools
import os
import signal
import sys

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
    keep, kept = pruning.FinishedBlocks.keep, itertools.count(1)

    def keep_three(self, *arguments):
        keep(self, *arguments)
        if next(kept) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    pruning.FinishedBlocks.keep = keep_three
    model = FAMILY.model()
    batches = [FAMILY.batch(0), FAMILY.batch(10)]
    pruning.prune(model, batches, plan=plan_of(model), method="sparsegpt", work_dir=sys.argv[1])
