"""Run under torchrun: a SparseLoRA network sharded with FSDP2 against the same network whole."""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from repairing.test_sparse_lora import X, adapted, make

from ressa.processes import leave
from ressa.repairing.teacher import dense_teacher


def main() -> None:
    dist.init_process_group("gloo")
    net, masks = make(dense_weights=True)
    whole = adapted(net, masks)
    sharded = copy.deepcopy(whole)
    for name in ("first", "middle", "last"):
        fully_shard(sharded.base_model.model.get_submodule(name))
    fully_shard(sharded)
    torch.testing.assert_close(sharded(X), whole(X))
    for model in (sharded, whole):
        model(X).square().sum().backward()
    wanted = {name: p.grad for name, p in whole.named_parameters() if p.requires_grad}
    for name, parameter in sharded.named_parameters():
        if parameter.requires_grad:  # the average over two processes with the same batch
            torch.testing.assert_close(parameter.grad.full_tensor(), wanted[name])
    with torch.no_grad(), dense_teacher(sharded), dense_teacher(whole):
        torch.testing.assert_close(sharded(X), whole(X))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave(0)
