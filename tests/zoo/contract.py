"""What has to hold of every family: its towers found, both patterns exact, padding ignored, a step of repair, reloaded.

Checks raise AssertionError, or whatever went wrong. `CHECKS` names them, in the order they stand in docs/families.md.
"""

import copy
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ressa import fused
from ressa.anatomy import Anatomy, find_anatomy
from ressa.calibration.statistics import InputNorm
from ressa.calibration.walk import walk
from ressa.checkpoint import Manifest, Vlm, save
from ressa.dual import DualEncoder, is_dual_encoder
from ressa.pruning import PruneResult, prune
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import plain
from ressa.repairing.pair_losses import ContrastiveLoss
from ressa.repairing.reconstruction import reconstruct
from ressa.repairing.student import finish_student, make_student
from ressa.repairing.weights import check_masks
from ressa.sparsity import Plan, parse_pattern
from ressa.warned import RessaWarning
from zoo import Batch, build, samples, together
from zoo.inputs import LENGTHS

DEPTH = r"num_(hidden_)?layers|depth|n_layers|layers|(en|de)coder_layers"
ANSWERS = ("labels", "decoder_input_ids", "decoder_attention_mask")
WORDS = 3  # that are generated
# Where a family's own numbers for a sample change with what stands beside it, equal masks cannot be asked for.
MIXING = {
    "udop": "padding has a place in the picture, too, and the patch there is left out",
    "xclip": "every text is prompted by every picture of its batch",
    "blip_vqa": "its decoder attends to padding of the question",
    "aimv2": "its text tower is causal where there is padding and looks both ways where there is none",
    "colpali": "likewise",
}
# Where transformers does not read back what it saved of the dense model either.
NOT_READ_BACK = {
    "shieldgemma2": "the class of the mapping is not the one that its weights are named for",
}


class Subject:
    """A family's tiny model, dense, and its samples; `pruned` and `result` are made when first asked for."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.model = build(family)
        self.alone = samples(family, self.model)
        self.anatomy: Anatomy = find_anatomy(self.model)
        self._pruned: tuple[Any, PruneResult] | None = None

    @property
    def batch(self) -> Batch:
        """Both samples, padded."""
        return together(self.alone)

    def prune(self, pattern: str) -> tuple[Any, PruneResult]:
        """A copy, pruned by Wanda in all layers that the pattern fits and calibration reaches."""
        model = copy.deepcopy(self.model)
        plan = Plan(dict.fromkeys(self.layers(), parse_pattern(pattern)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RessaWarning)  # experts that saw few tokens, layers never reached
            return model, prune(model, [self.batch], plan, method="wanda", anatomy=self.anatomy)

    @property
    def pruned(self) -> tuple[Any, PruneResult]:
        """At 2:4."""
        if self._pruned is None:
            self._pruned = self.prune("2:4")
        return self._pruned

    def statistics(self, batches: list[Batch]) -> dict[str, InputNorm]:
        """Of the dense model, layer by layer."""
        model, found = copy.deepcopy(self.model), dict[str, InputNorm]()
        with fused.splitted(model):
            walk(
                model,
                self.anatomy,
                batches,
                lambda _block, statistics: found.update(statistics),  # type: ignore[arg-type]
                lambda _name, linear: InputNorm(linear.in_features),
                pass_by=True,
            )
        return found

    def layers(self) -> list[str]:
        """Layers that 2:4 fits."""
        with fused.splitted(self.model):
            linears = {name: self.model.get_submodule(name) for name in self.anatomy.linears()}
            return [name for name, linear in linears.items() if linear.weight.shape[1] % 4 == 0]


def blocks_are_as_many_as_the_config_says(subject: Subject) -> None:
    """Of the language and the vision tower, where they have a part of the config of their own; of a tower in stages,
    those of one kind."""
    config = subject.model.config
    seeing = (getattr(config, name, None) for name in ("vision_config", "encoder", "backbone_config"))
    parts = {"language": config.get_text_config(), "vision": next((p for p in seeing if p is not None), None)}
    for tower, part in parts.items():
        entries = [] if part is None else list(part.to_dict().items())
        told = {value for key, value in entries if re.fullmatch(DEPTH, key) and isinstance(value, int)}
        told |= {sum(value) for key, value in entries if key == "depths"}
        counts = [len(chain.blocks) for chain in subject.anatomy.chains(tower)]
        kinds = Counter(type(subject.model.get_submodule(b.name)) for b in subject.anatomy.blocks(tower))
        if tower in subject.anatomy.towers and told:
            found = {*counts, sum(counts), *kinds.values()}
            assert told & found, f"{tower}: {counts} blocks, config says {sorted(told)}"
    assert "language" in subject.anatomy.towers


def half_the_weights_of_every_group_are_zero(subject: Subject) -> None:
    _, result = subject.pruned
    for name, mask in result.masks.items():
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all(), name
    _nothing_is_left_out(subject, result)


def half_the_weights_of_every_row_are_zero(subject: Subject) -> None:
    _, result = subject.prune("0.5")
    for name, mask in result.masks.items():
        assert ((~mask).sum(1) == mask.shape[1] // 2).all(), name
    _nothing_is_left_out(subject, result)


def padding_changes_nothing(subject: Subject) -> None:
    """The same statistics, and so the same masks, of samples in one batch and alone."""
    if subject.family in MIXING:
        return
    padded, bare = (subject.statistics(batches) for batches in ([subject.batch], subject.alone))
    assert padded.keys() == bare.keys()
    for name, found in padded.items():
        assert found.count == bare[name].count, f"{name}: {found.count} tokens, {bare[name].count} alone"
        if found.count:
            torch.testing.assert_close(found.norm(), bare[name].norm(), rtol=5e-3, atol=1e-4, msg=name)


def what_it_says_is_finite(subject: Subject) -> None:
    """Wherever what the dense model says is: Grounding-DINO's logits are −∞ for words that are not there."""
    model, _ = subject.pruned
    dense, pruned = (answer(each, subject.batch).isfinite() for each in (subject.model, model))
    assert dense.any()
    assert torch.equal(dense, pruned)


@torch.no_grad()
def what_it_writes_is_finite(subject: Subject) -> None:
    """Three words of greedy decoding, with a cache, where the family generates; of π0, what it does."""
    model, _ = subject.pruned
    for sample in subject.alone:
        given = {name: value for name, value in sample.items() if name not in ANSWERS}
        if hasattr(model, "sample_actions"):
            assert model.sample_actions(**given, num_steps=2).isfinite().all()
        if not model.can_generate():
            continue
        lengths = dict.fromkeys(("max_new_tokens", "min_new_tokens"), WORDS)
        told = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        written = model.generate(**given, **lengths, **told)
        words = written.sequences[:, -WORDS:]
        assert words.min() >= 0
        assert words.max() < model.config.get_text_config().vocab_size
        if written.logits is not None:  # DiffusionGemma writes a canvas at once, and keeps none
            assert len(written.logits) == WORDS
            assert all(step.isfinite().all() for step in written.logits)


def a_step_of_repair_moves_no_zero(subject: Subject) -> None:
    """Sparse LoRA where the model gives a loss of words, or contrasts pairs; else reconstruction of its blocks."""
    model, result = subject.pruned
    model, masks = copy.deepcopy(model), dict(result.masks)
    towers = tuple(subject.anatomy.towers)
    loss = _loss(subject, model)
    with fused.splitted(model):
        if loss is not None:
            config = RepairConfig(tune=towers)  # type: ignore[arg-type]
            student = make_student(model, masks, subject.anatomy, config, dense_weights=False).train()
            trained = [each for each in student.parameters() if each.requires_grad]
            before = [each.detach().clone() for each in trained]
            optimizer = torch.optim.SGD(trained, lr=1e-2)
            for _ in range(2):  # at first B is zero, and A gets no gradient
                value = loss(student)
                assert value.isfinite()
                value.backward()
                optimizer.step()
                optimizer.zero_grad()
            assert any(not torch.equal(old, new) for old, new in zip(before, trained, strict=True))
            model = finish_student(student, masks, config)
        else:
            dense = copy.deepcopy(subject.model)
            config = RepairConfig(method="reconstruct", tune=towers, reconstruct_epochs=1)  # type: ignore[arg-type]
            with fused.splitted(dense):
                reconstruct(model, dense, masks, subject.anatomy, [subject.batch], config)
        check_masks(model, masks)
        said = answer(model.eval(), subject.batch)
    torch.testing.assert_close(answer(model, subject.batch), said, msg="joined, it says something else")


def _loss(subject: Subject, model: Any) -> Callable[[Any], Tensor] | None:
    """What a student of the model is trained on: the batch's words, or which text belongs to which picture."""
    batch = subject.batch
    if "labels" in batch or "actions" in batch:
        return lambda student: student(**batch).loss
    if not is_dual_encoder(model):
        return None
    encoder, apart = DualEncoder(model, None), ~torch.eye(len(LENGTHS), dtype=torch.bool)
    contrastive = ContrastiveLoss(encoder.loss)

    def loss(student: Any) -> Tensor:
        found = encoder.embed(lambda given: student(**given), plain(student), {"both": batch})
        return contrastive(encoder.logits(found.similarity()), apart, torch.tensor(len(apart)))

    return loss


def plain_transformers_reads_it_again(subject: Subject, folder: Path) -> None:
    if subject.family in NOT_READ_BACK:
        return
    model, result = subject.pruned
    manifest = Manifest(kind="pruned", source=subject.family, plan=result.plan.to_dict())
    save(folder, Vlm(model, None, subject.family), manifest=manifest, masks=result.masks)
    again = type(model).from_pretrained(folder).eval()
    torch.testing.assert_close(answer(again, subject.batch), answer(model, subject.batch))


CHECKS: dict[str, Callable[..., None]] = {
    "anatomy": blocks_are_as_many_as_the_config_says,
    "2:4": half_the_weights_of_every_group_are_zero,
    "50 %": half_the_weights_of_every_row_are_zero,
    "padding": padding_changes_nothing,
    "forward": what_it_says_is_finite,
    "generate": what_it_writes_is_finite,
    "repair": a_step_of_repair_moves_no_zero,
    "reload": plain_transformers_reads_it_again,
}


@torch.no_grad()
def answer(model: Any, batch: Batch) -> Tensor:
    """Logits, or the first numbers that a model without such gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # flow matching draws noise
        output: Mapping[str, Any] = model(**batch)
    if isinstance(output.get("logits"), Tensor):
        return output["logits"]
    return next(each for each in output.values() if isinstance(each, Tensor) and each.dim())


def _nothing_is_left_out(subject: Subject, result: PruneResult) -> None:
    """Every tower that calibration reaches is pruned, in all its layers that the pattern fits."""
    reached = subject.statistics([subject.batch]).keys()
    left = [name for name in subject.layers() if name in reached and name not in result.masks]
    assert not left
    towers = {layer.tower for layer in result.layers}
    assert towers == {subject.anatomy.tower_of(name) for name in reached}
    assert towers >= set(subject.anatomy.towers) - {"connector"}
