"""A teacher on disk: the dense model's most probable tokens, computed once, for when memory is short.

With it the dense model need not be in memory while the student trains.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ressa.data.ending import Ending
from ressa.data.sample import Sample
from ressa.errors import UsageError
from ressa.files import fresh_directory, write_json
from ressa.progress import track
from ressa.provenance import fingerprint
from ressa.repairing.ending import settled_batcher
from ressa.repairing.forward import Forward, lean_forward, logits_of
from ressa.repairing.losses import IGNORED, align

if TYPE_CHECKING:
    from ressa.checkpoint import Vlm

_LOGITS, _RECORD = "logits.safetensors", "logits.json"


class CachedLogits:
    """The k most probable tokens of the dense model at every supervised position of some samples.

    On disk: log-probabilities float32 (tokens, k) and token ids int32 (tokens, k), the tokens of sample i at rows
    starts[i] to starts[i + 1]. Rows are read as they are needed.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises UsageError if the folder holds no cached logits."""
        self.folder = Path(folder)
        if not (self.folder / _RECORD).is_file():
            raise UsageError(f"{folder} holds no cached logits: make them with cache_logits.")
        record = json.loads((self.folder / _RECORD).read_text())
        self.temperature: float = record["temperature"]
        self.samples: str = record["samples"]
        self.end = (
            Ending(tuple(record["end"]["ids"]), record["end"]["text"], "as cached") if record["end"] else None
        )
        self._file = safe_open(self.folder / _LOGITS, "pt")
        self._starts: list[int] = self._file.get_tensor("starts").tolist()

    def check(self, samples: Sequence[Sample], temperature: float) -> None:
        """Raises UsageError unless the logits are those of these samples, in this order, at this temperature."""
        if self.samples != _fingerprint(samples):
            raise UsageError(f"The logits in {self.folder} are of other samples: cache them again.")
        if self.temperature != temperature:
            raise UsageError(
                f"The logits in {self.folder} were cached at temperature {self.temperature}, not {temperature}: "
                "cache them again."
            )

    def rows(self, samples: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Log-probabilities and ids, (tokens, k) each, of the samples with these numbers, one after another."""
        found = []
        for name in ("log_probabilities", "ids"):
            table = self._file.get_slice(name)
            parts = [table[self._starts[i] : self._starts[i + 1]] for i in samples]
            found.append(torch.cat(parts).to(device))
        return found[0], found[1].long()


@torch.no_grad()
def cache_logits(
    dense: "Vlm",
    samples: Sequence[Sample],
    folder: str | Path,
    *,
    k: int = 64,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> CachedLogits:
    """Run the dense model, where it is, over the samples and keep its k most probable tokens at each position.

    Give `repair` the same samples in the same order, and the result in the place of the dense model.
    """
    home = next(dense.model.parameters())
    batcher = settled_batcher(dense, dense.model, samples, Forward(home.device))
    values, ids, counts = [], [], []
    starts = range(0, len(samples), batch_size)
    with lean_forward(dense.model):
        for start in track(starts, "Caching the dense model's logits"):
            batch = batcher.training(samples[start : start + batch_size])
            inputs = {
                name: x.to(home.device, home.dtype) if x.is_floating_point() else x.to(home.device)
                for name, x in batch.items()
            }
            labels = inputs["labels"]
            logits, targets = align(
                logits_of(dense.model(**inputs)), labels, shift=not batcher.encoder_decoder
            )
            logits = logits[targets != IGNORED].float() / temperature
            best = torch.log_softmax(logits, dim=-1).topk(min(k, logits.shape[-1]), dim=-1)
            values.append(best.values.cpu())
            ids.append(best.indices.int().cpu())
            counts.append((targets != IGNORED).view(len(labels), -1).sum(1).cpu())
    ends = torch.cat([torch.zeros(1, dtype=torch.long), torch.cat(counts).cumsum(0)])
    with fresh_directory(folder) as work:
        tables = {"log_probabilities": torch.cat(values), "ids": torch.cat(ids), "starts": ends}
        save_file(tables, work / _LOGITS)
        end = batcher.text.end and {"ids": batcher.text.end.ids, "text": batcher.text.end.text}
        record = {"samples": _fingerprint(samples), "temperature": temperature, "k": k, "end": end}
        write_json(work / _RECORD, record)
    return CachedLogits(folder)


def _fingerprint(samples: Sequence[Sample]) -> str:
    return fingerprint(
        "\n".join([sample.id, *(f"{asked}\n{said}" for asked, said in sample.turns)]) for sample in samples
    )
