"""Activations that fit into no memory wait in files, and nothing else is different."""

import errno
import os
from pathlib import Path

import pytest
import torch
from families import FAMILIES, every_family

from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.calibration import activations
from ressa.calibration.activations import Activations
from ressa.pruning import prune
from ressa.sparsity import NM

CPU = torch.device("cpu")
NEVER = 2**62  # bytes that no machine has free


def anonymous() -> int:
    """Bytes of this process that the system cannot write to a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_what_waits_in_a_file_is_the_same_and_leaves_none(dtype, tmp_path):
    kept = Activations(CPU, host_room=NEVER, folder=tmp_path / "work")
    given = torch.randint(0, 2, (3, 1 << 20, 2)).to(dtype)
    waiting = kept.keep(given.transpose(0, 2))
    assert torch.equal(waiting, given.transpose(0, 2))
    assert waiting.data_ptr() != given.data_ptr()
    assert list((tmp_path / "work").iterdir()) == []


def test_what_fits_stays(tmp_path):
    given = torch.zeros(1 << 20)
    assert Activations(CPU, host_room=0).lay(given) is given
    small = torch.zeros(10)
    assert Activations(CPU, host_room=NEVER).lay(small) is small


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="asks Linux for the memory of this process"
)
def test_files_take_the_place_of_memory(tmp_path):
    kept = Activations(CPU, host_room=NEVER, folder=tmp_path)
    given = torch.ones(4 << 20)  # one for all: what is freed between others stays with the process
    before = anonymous()
    held = [kept.lay(given) for _ in range(16)]  # 256 MiB
    assert anonymous() - before < 64 << 20
    assert all(float(tensor.sum()) == 4 << 20 for tensor in held)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Activations(CPU, host_room=NEVER, folder=tmp_path).lay(torch.zeros(1 << 20))
    assert list(tmp_path.iterdir()) == []


@every_family
def test_pruning_with_activations_in_files_gives_the_same_bits(family, monkeypatch, tmp_path):
    family = FAMILIES[family.name]

    def pruned() -> dict[str, torch.Tensor]:
        model = family.model()
        plan = per_tower(find_anatomy(model), model, {"vision": NM(2, 4), "language": NM(2, 4)})
        prune(model, [family.batch(0), family.batch(10)], plan=plan, method="sparsegpt", work_dir=tmp_path)
        return model.state_dict()

    in_memory = pruned()
    for left in tmp_path.iterdir():
        left.unlink()
    monkeypatch.setattr(activations, "host_memory", lambda: 0)
    monkeypatch.setattr(activations, "_SMALL", 0)
    mapped = []
    make = Activations._mapped
    monkeypatch.setattr(
        Activations, "_mapped", lambda self, like: mapped.append(like.shape) or make(self, like)
    )
    in_files = pruned()
    assert mapped
    assert all(torch.equal(in_memory[key], in_files[key]) for key in in_memory)


def test_a_gpu_is_not_asked_what_is_free_for_every_tensor(monkeypatch):
    free, asked = [1000], []

    def _free(device):
        asked.append(device)
        return free[0]

    monkeypatch.setattr(activations, "_free", _free)
    kept = Activations(CPU, room=200)
    stays = []
    while True:  # each takes 20 bytes of what is free
        fits = kept._fits(torch.zeros(20, dtype=torch.uint8))
        free[0] -= 20
        if not fits:
            break
        stays.append(free[0])
    assert 200 <= stays[-1] + 20 <= 240  # the last that fits leaves the room, to a tensor
    assert len(asked) < len(stays) / 2
    assert not kept._fits(torch.zeros(1, dtype=torch.uint8))
