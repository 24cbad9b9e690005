"""Which objective a model is repaired with, and what of a config it allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from ressa.anatomy import Anatomy
from ressa.data.batcher import Batcher
from ressa.data.pairs import PairBatcher
from ressa.data.sample import Sample
from ressa.dual import DualEncoder, is_dual_encoder
from ressa.errors import UsageError
from ressa.repairing.cached import CachedLogits
from ressa.repairing.config import RepairConfig
from ressa.repairing.ending import settled_batcher
from ressa.repairing.forward import Forward
from ressa.repairing.objective import Objective
from ressa.repairing.pair_objective import PairObjective
from ressa.repairing.token_objective import TokenObjective
from ressa.repairing.weights import DenseWeights
from ressa.warned import warn

if TYPE_CHECKING:
    from ressa.checkpoint import Vlm


def within_reach(config: RepairConfig, vlm: "Vlm", samples: Sequence[Sample]) -> RepairConfig:
    """The config, or what is left of it for a model that has no objective or samples that have no texts: blocks that
    are reconstructed, of which it is said.

    Raises UsageError for what such a model cannot be told, and where nothing is left.
    """
    kind = type(vlm.model).__name__
    if not is_dual_encoder(vlm.model, vlm.processor):
        if vlm.model.can_generate():
            return config
        return _blocks_alone(config, f"{kind} neither writes text nor embeds pictures and texts apart")
    if config.hidden_weight:
        raise UsageError(f"{kind} writes no text, and hidden_weight is for models that do: leave it at 0.")
    without = sum(not (sample.target or "").strip() for sample in samples)
    if without == len(samples):
        if "vision" not in config.tune:
            raise UsageError(
                "The pictures have no texts, and only the vision tower can be repaired on pictures alone: give it a "
                "rank, or give captions or class names."
            )
        reason = (
            "The pictures have no texts, so the vision tower alone is repaired (give captions or class names)"
        )
        return _blocks_alone(config.model_copy(update={"tune": ("vision",)}), reason)
    if without:
        raise UsageError(
            f"{without:,} of {len(samples):,} samples have no text: give each picture one, or none at all."
        )
    if config.method != "reconstruct" and config.batch_size < 2:
        raise UsageError(f"{kind} learns to tell pairs apart: give it a batch size of 2 or more.")
    return config


def _blocks_alone(config: RepairConfig, reason: str) -> RepairConfig:
    if not config.reconstructs:
        raise UsageError(
            f"{reason}: only block-wise reconstruction can repair that (method=reconstruct, or warm_start)."
        )
    if config.method != "reconstruct":
        warn(f"{reason}: its blocks are reconstructed, and nothing is trained as a whole.")
    return config.model_copy(update={"method": "reconstruct", "held_back": 0})


def find_objective(
    vlm: "Vlm",
    judge: nn.Module,
    teacher: DenseWeights | CachedLogits | None,
    samples: Sequence[Sample],
    forward: Forward,
    config: RepairConfig,
    anatomy: Anatomy,
) -> Objective:
    """The objective of a model's kind.

    judge: the dense model where there is one; where files disagree on the end of an answer it is asked, on the first of
    the samples, and decides.
    """
    model = vlm.model
    if is_dual_encoder(model, vlm.processor) or not model.can_generate():
        if isinstance(teacher, CachedLogits):
            raise UsageError(f"{type(model).__name__} has no logits of words to cache: give the dense model.")
        return PairObjective(PairBatcher(model, vlm.processor), DualEncoder(model, vlm.processor), config)
    chains = list(anatomy.chains("language"))
    decoders = [chain for chain in chains if chain.reads_labels] or chains
    blocks = [block.name for chain in decoders for block in chain.blocks]
    if isinstance(teacher, CachedLogits):
        generation = getattr(model, "generation_config", None)
        batcher = Batcher(vlm.processor, model.config, generation, end=teacher.end)
        return TokenObjective(batcher, config, cache=teacher, blocks=blocks)
    return TokenObjective(settled_batcher(vlm, judge, samples, forward), config, blocks=blocks)
