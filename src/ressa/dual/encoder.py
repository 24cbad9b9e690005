"""What a dual encoder makes of pictures and texts, and what a pair of them scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.dual.structure import is_late, itm_switch, number_of, scale_of
from ressa.errors import UsageError

Inputs = Mapping[str, Tensor]
Run = Callable[[Inputs], Any]

TEMPERATURE = 0.07  # where ALBEF and BLIP begin theirs; transformers keeps no learnt one of BLIP


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of pictures (N, n, d) and texts (M, m, d), float32; zeros where there is no token.

    n and m are 1 but for late interaction (a vector a token) and BLIP-2 (one a query of the picture).
    """

    images: Tensor
    texts: Tensor

    def similarity(self) -> Tensor:
        return similarity(self.images, self.texts)


def similarity(images: Tensor, texts: Tensor) -> Tensor:
    """MaxSim (ColBERT, arXiv 2004.12832): Σ over a text's vectors of the largest cosine with one of a picture's.

    images: (N, n, d), texts: (M, m, d), unit vectors. Returns float32 (N, M); of one vector each, their cosine.
    """
    with torch.autocast(images.device.type, enabled=False):
        images, texts = images.float(), texts.float()
        if images.shape[1] == texts.shape[1] == 1:
            return images[:, 0] @ texts[:, 0].T
        return torch.einsum("ind,jmd->ijnm", images, texts).amax(2).sum(2)


class DualEncoder:
    """How a dual encoder is run.

    Args:
        model: the transformers model, not wrapped.
        processor: its processor.

    late: whether pictures and texts go through the model in forwards of their own (late interaction). switch: what
    turns its ITM head on, or None. scale, bias: of its logits, z = scale · similarity + bias. loss: the one that the
    family is trained with: "softmax" (CLIP), "sigmoid" where logits have a bias, as to a softmax it means nothing
    (SigLIP), or "hardest" (ColPali).
    """

    def __init__(self, model: nn.Module, processor: Any) -> None:
        self.late = is_late(processor)
        self.switch = itm_switch(model)
        self.scale = 1.0 if self.late else scale_of(model) or 1 / TEMPERATURE
        self.bias = number_of(model, "logit_bias") or 0.0
        biased = hasattr(model, "logit_bias")
        self.loss: Literal["softmax", "sigmoid", "hardest"] = (
            "hardest" if self.late else "sigmoid" if biased else "softmax"
        )
        # The last linears before the score, for models that give nothing else (BLIP).
        towers = {name for name, part in model.named_modules() if isinstance(part, nn.ModuleList)}
        self._projections = [
            name
            for name, part in model.named_modules()
            if isinstance(part, nn.Linear) and not any(name.startswith(f"{tower}.") for tower in towers)
        ]

    def logits(self, similarity: Tensor) -> Tensor:
        return self.scale * similarity + self.bias

    def embed(self, run: Run, network: nn.Module, inputs: Mapping[str, Inputs]) -> Embeddings:
        """The embeddings of a batch as `PairBatcher` makes it.

        run: gives the model's output for inputs. network: the module that runs, whose parts can be hooked.
        Raises UsageError for a model that gives no embeddings.
        """
        if (
            self.late
        ):  # pictures last: they go through all of the model, which DDP looks for behind the last forward
            texts = self.late_vectors(run, inputs["texts"])
            return Embeddings(self.late_vectors(run, inputs["images"]), texts)
        both = dict(inputs["both"])
        if self.switch is not None:
            both[self.switch] = torch.tensor(False)
        seen: list[tuple[str, Tensor]] = []
        handles = [
            network.get_submodule(name).register_forward_hook(
                lambda _m, _args, output, name=name: seen.append((name, output))
            )
            for name in (self._projections if self.switch is not None else ())
        ]
        try:
            output = run(both)
        finally:
            for handle in handles:
                handle.remove()
        seen_as, read_as = (_tensor(output, f"{kind}_embeds") for kind in ("image", "text"))
        if seen_as is None or read_as is None:
            score = _tensor(output, "itm_score")
            if score is None:
                raise UsageError(
                    f"The model gives no embeddings of pictures and texts (its output is a {type(output).__name__})."
                )
            seen_as, read_as = self._behind(score, seen)
        return Embeddings(_unit(seen_as), _unit(read_as))

    def late_vectors(self, run: Run, inputs: Inputs) -> Tensor:
        """A vector for each token of pages or of queries."""
        return _unit(run(inputs).embeddings)

    def _behind(self, score: Tensor, seen: list[tuple[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """The two projections (N, d), (M, d) whose cosines are the scores (N, M), found by trying."""
        flat = [(name, each) for name, each in seen if each.dim() == 2]
        for first, images in flat:
            for second, texts in flat:
                if first == second or images.shape[1] != texts.shape[1]:
                    continue
                cosines = (_unit(images)[:, 0] @ _unit(texts)[:, 0].T).detach()
                near = 1e-4 if score.dtype == torch.float32 else 5e-2
                # of a broken model all of these are NaN, which whoever reads the scores will say
                if cosines.shape == score.shape and torch.allclose(
                    cosines, score.detach().float(), atol=near, equal_nan=True
                ):
                    self._projections = [first, second]
                    return images, texts
        raise UsageError(
            "The model's scores are no cosines of projections, so it has no embeddings to learn."
        )


def _tensor(output: Any, name: str) -> Tensor | None:
    found = getattr(output, name, None)
    return found if isinstance(found, Tensor) else None


def _unit(vectors: Tensor) -> Tensor:
    """(N, d) or (N, n, d) → float32 (N, n, d) of length one; zeros stay."""
    return F.normalize(vectors.float() if vectors.dim() == 3 else vectors.float()[:, None], dim=-1)
