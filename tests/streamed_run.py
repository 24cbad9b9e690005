"""Prune a stored model and save it, in a process of its own whose memory is measured:

    python streamed_run.py SOURCE OUTPUT stream|memory

prints by how many bytes the resident memory grew at most.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from families import FAMILIES

from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.checkpoint import Manifest, StreamedWeights, Vlm, loading, save
from ressa.pruning import prune
from ressa.sparsity import NM


def resident(field: str) -> int:
    """VmRSS is what is resident now, VmHWM the most there was; bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def run(source: Path, output: Path, *, stream: bool) -> None:
    config = loading.AutoConfig.from_pretrained(source)
    model = loading.model_class(config).from_pretrained(source, dtype="auto").eval()
    plan = per_tower(find_anatomy(model), model, {"vision": NM(2, 4), "language": NM(2, 4)})
    weights = StreamedWeights(model, list(plan), source, output.with_name("work")) if stream else None
    batches = [FAMILIES["llava"].batch(seed) for seed in (0, 10)]
    result = prune(model, batches, plan, streamed=weights)
    manifest = Manifest(kind="pruned", source="test", plan=plan.to_dict())
    save(output, Vlm(model, None, "", source), manifest=manifest, masks=result.masks, streamed=weights)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm = FAMILIES["llava"].model()  # what the libraries take once is not the run's
    prune(warm, [FAMILIES["llava"].batch(0)], per_tower(find_anatomy(warm), warm, {"language": NM(2, 4)}))
    with TemporaryDirectory() as folder:
        warm.save_pretrained(folder)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    run(Path(sys.argv[1]), Path(sys.argv[2]), stream=sys.argv[3] == "stream")
    print(resident("VmHWM") - before)
