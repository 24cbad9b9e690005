"""Finding a VLM's towers by its structure; the only place that knows how model families differ.

transformers' `get_encoder(modality="image")` and `get_decoder()` say where the towers begin, a chain is a container of
modules that each hold linears, and what lies between the towers is the connector.
"""

import inspect
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import Any

from torch import nn

from ressa.anatomy.parts import TOWERS, Anatomy, Chain, Tower
from ressa.anatomy.tree import Tree
from ressa.errors import UsageError
from ressa.fused import splitted

ELSEWHERE = {
    "audio": "sound, not pictures (Phi-4-multimodal, Qwen-Omni)",
    "speech": "likewise",
    "video_tower": "moving pictures alone (Video-LLaVA)",
    "generation": "draws pictures (Janus)",
    "vqmodel": "turns pictures into words by convolutions (Chameleon, Emu3)",
    "pooler": "one vector of many, for a classifier (ViT's, BERT's)",
    "action": "moves a robot (pi0)",
    "dit": "likewise, or draws pictures: a diffusion transformer beside the language model",
}
"""Words in names of modules beside the way from a picture to the language model, and what such modules do."""


def find_anatomy(model: nn.Module) -> Anatomy:
    """Find the towers of a transformers model.

    vision: the blocks beneath the image encoder, or encoders. language: the blocks beneath the decoder and, where
    there is one, the text encoder. connector: every other linear that leads from one to the other (Q-Former,
    projector, resampler, patch merger). Never included: output heads, routers, embeddings, patch embedding, norms,
    pooling heads, what is `ELSEWHERE`, weights that several modules share beyond the first of them. A model that
    reads pictures without a transformer of their own (Fuyu, Chameleon) has no vision tower.

    Fused weights (experts, packed attention) count by their parts, whether or not they are split now (`ressa.fused`).

    Raises UsageError if the model does not read pictures, or has no language tower.
    """
    with splitted(model):
        return _find(model)


def _find(model: Any) -> Anatomy:
    kind = type(model).__name__
    tree = Tree(model)
    vision = _image_encoder(tree, model)
    if not (_reads_pictures(model) and _vocabularies(getattr(model, "config", None))):
        what = "words" if _reads_pictures(model) else "pictures"
        raise UsageError(
            f"not a vision-language model: {kind} reads no {what}; "
            "give an image-text model such as LLaVA, InstructBLIP or CLIP."
        )
    vision_chains, connector = ([], []) if vision is None else _split_vision(tree, vision)
    foreign = {module for name, module in tree.modules.items() if _elsewhere(name)}
    sound = _own_encoder(model, "audio")
    foreign |= {m for m in (vision, sound) if m is not None and (m is vision or not tree.inside(vision, m))}
    language_chains, roots = _language(tree, model, vision, foreign)
    taken = {block.name for chain in language_chains for block in chain.blocks}
    rest = [chain for chain in tree.pieces(model, foreign | roots) if chain.blocks[0].name not in taken]
    more = [piece for piece in rest if _sees(tree, piece, roots | foreign)]
    vision_chains += [piece for piece in more if len(piece.blocks) > 1]
    connector += [piece for piece in rest if piece not in more]
    if not language_chains and not any(len(chain.blocks) > 1 for chain in connector):
        raise UsageError(
            f"not a vision-language model: {kind} has no language tower with a plain nn.Linear to prune; "
            "give an image-text model such as LLaVA, InstructBLIP or CLIP that is not quantised."
        )
    towers = {"vision": vision_chains, "connector": connector, "language": language_chains}
    return _counted(tree, {name: found for name in TOWERS if (found := towers[name])})


# -- the vision tower ---------------------------------------------------------------------------------------


def _own_encoder(model: Any, modality: str | None) -> nn.Module | None:
    """The encoder of one modality, or None where transformers finds no module of its own for it."""
    encoder = model.get_encoder(modality=modality) if hasattr(model, "get_encoder") else None
    if not isinstance(encoder, nn.Module) or encoder in (model, getattr(model, "base_model", model)):
        return None
    return encoder


def _image_encoder(tree: Tree, model: nn.Module) -> nn.Module | None:
    """The image encoder; None where there is none, or none with a linear to prune."""
    encoder = _own_encoder(model, "image")
    while encoder is not None and _reads_words(model, encoder) and (inner := _own_encoder(encoder, "image")):
        encoder = inner
    if encoder is None or _reads_words(model, encoder):
        # No module by one of transformers' usual names, or one that reads text and holds the image encoder.
        within = list((encoder or model).modules())
        told = ((m, getattr(m, "input_modalities", ())) for m in within)
        declared = (m for m, kinds in told if "image" in kinds and "text" not in kinds)
        seeing = (m for m in within if _has_patches(m))
        found = (m for each in (declared, seeing) for m in each if m is not model)
        alone = (m for m in found if not _reads_words(model, m))
        encoder = next((m for m in alone if any(True for _ in tree.chains(m, set()))), None)
    if encoder is None or any(True for _ in tree.chains(encoder, set())):
        return encoder
    if any(isinstance(m, nn.Linear) and type(m) is not nn.Linear for m in encoder.modules()):
        raise UsageError(
            f"the vision tower of {type(model).__name__} has no block with a plain nn.Linear to prune; "
            "give a model that is not quantised."
        )
    return None


def _reads_words(model: nn.Module, module: nn.Module) -> bool:
    """Whether a module holds a table of words."""
    words = _vocabularies(getattr(model, "config", None))
    return any(isinstance(m, nn.Embedding) and m.num_embeddings in words for m in module.modules())


def _vocabularies(config: Any) -> set[int]:
    """The text config's number of words, or those of any config within where that has none (pi0)."""
    if config is None:
        return set()
    own = getattr(config.get_text_config(), "vocab_size", None)
    parts = [value for value in vars(config).values() if hasattr(value, "get_text_config")]
    return {own} if own is not None else set().union(*map(_vocabularies, parts))


def _has_patches(module: nn.Module) -> bool:
    """Whether a convolution in a module takes the colours of a picture."""
    kernels = (m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    return any(kernel.in_channels in (1, 3) for kernel in kernels)


def _reads_pictures(model: nn.Module) -> bool:
    """Whether the model's forward takes pictures."""
    if "image" in getattr(model, "input_modalities", ()):
        return True
    return any("pixel" in name or "image" in name for name in inspect.signature(model.forward).parameters)


def _split_vision(tree: Tree, vision: nn.Module) -> tuple[list[Chain], list[Chain]]:
    """The vision tower's chains, and what follows them within it (patch merger, adapter): the connector's."""
    pieces = [piece for piece in tree.pieces(vision, set()) if not _elsewhere(piece.blocks[0].name)]
    chains = [piece for piece in tree.chains(vision, set()) if piece in pieces]
    width = max(len(block.linears) for chain in chains for block in chain.blocks)
    # A list of patch mergers looks like a chain, but no block of a transformer makes do with two linears.
    towers = [chain for chain in chains if len(chain.blocks[0].linears) > 2 or width <= 2]
    last = max(pieces.index(chain) for chain in towers)
    # Stray linears before the last block are the patch embedding's; an attention pool makes one vector for a
    # contrastive loss, which no language model reads.
    rest = [piece for i, piece in enumerate(pieces) if piece in chains or i > last]
    return towers, [piece for piece in rest if piece not in towers and not tree.pools(piece)]


def _sees(tree: Tree, piece: Chain, others: set[nn.Module]) -> bool:
    """Whether a chain between the towers belongs to a further image encoder (DeepSeek-VL-hybrid's SAM)."""
    around = tree.around(piece)
    while (up := tree.parent(around)) is not None and not any(tree.inside(other, around) for other in others):
        if _has_patches(around):
            return True
        around = up
    return False


# -- the language tower -------------------------------------------------------------------------------------


def _language(
    tree: Tree, model: Any, vision: nn.Module | None, foreign: set[nn.Module]
) -> tuple[list[Chain], set[nn.Module]]:
    """The language tower's chains, and the modules that hold nothing but the language tower.

    The tower is the largest module around the decoder that does not hold the vision tower, and the text
    encoder where that stands apart; where neither reads words, the modules that do.
    """
    root = decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    while hasattr(decoder, "get_decoder") and (inner := decoder.get_decoder()) is not decoder:
        decoder = inner
    while (
        vision is not None
        and (parent := tree.parent(root)) is not None
        and parent is not model
        and not tree.inside(vision, parent)
    ):
        root = parent
    roots = [root]
    encoder = _own_encoder(model, None)
    if encoder is not None and not tree.inside(encoder, root) and not _within(tree, encoder, vision):
        roots.insert(0, encoder)
    if not any(_reads_words(model, root) for root in roots):  # they decode something else, such as boxes
        roots = list(_word_readers(tree, model, model, [*roots, vision])) or roots
    chains: list[Chain] = []
    for root in roots:
        found = list(tree.chains(root, foreign | set(roots) - {root}))
        if found and _mixed(
            tree, model, vision, root
        ):  # connector and all: the longest chain, its like, its siblings
            longest = max(found, key=lambda chain: sum(len(block.linears) for block in chain.blocks))
            found = [
                chain
                for chain in found
                if tree.kinds(chain) & tree.kinds(longest) or tree.around(chain) is tree.around(longest)
            ]
        chains += found
    decodes = [tree.inside(tree.modules[chain.name], decoder) for chain in chains]
    if not all(decodes) or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        chains = [replace(chain, reads_labels=reads) for chain, reads in zip(chains, decodes, strict=True)]
    return chains, {root for root in roots if not _mixed(tree, model, vision, root)}


def _word_readers(
    tree: Tree, model: nn.Module, around: nn.Module, others: Sequence[nn.Module | None]
) -> Iterator[nn.Module]:
    """The largest modules that read words and hold none of the others (Grounding-DINO's BERT)."""
    for child in around.children():
        if any(tree.inside(other, child) for other in others):
            yield from _word_readers(tree, model, child, others)
        elif _reads_words(model, child) and any(True for _ in tree.chains(child, set())):
            yield child


def _within(tree: Tree, module: nn.Module, other: nn.Module | None) -> bool:
    return other is not None and tree.inside(module, other)


def _mixed(tree: Tree, model: nn.Module, vision: nn.Module | None, root: nn.Module) -> bool:
    """Whether a root holds more than the language tower."""
    return tree.inside(vision, root) or (
        vision is None and root in (model, getattr(model, "base_model", model))
    )


# -- what is left -------------------------------------------------------------------------------------------


def _elsewhere(name: str) -> bool:
    return any(f"_{word}_" in f"_{part}_" for part in name.split(".") for word in ELSEWHERE)


def _counted(tree: Tree, chains: dict[str, list[Chain]]) -> Anatomy:
    """The towers with the number of their weights; and what is in none of them."""
    towers, prunable = {}, set[str]()
    for tower, found in chains.items():
        blocks = [block for chain in found for block in chain.blocks]
        linears = {linear for block in blocks for linear in block.linears}
        others = {
            parameter
            for block in blocks
            for name, part in tree.modules[block.name].named_modules(prefix=block.name)
            if name not in linears and not isinstance(part, nn.Embedding) and part is not tree.head
            for parameter in part.parameters(recurse=False)
            if parameter.dim() > 1
        }
        size = sum(map(tree.size, linears))
        towers[tower] = Tower(tower, tuple(found), size, size + sum(other.numel() for other in others))
        prunable |= linears
    used = {above for linear in prunable for above in _above(linear)}
    outside = {_largest(name, used) for name in tree.linears - prunable}
    return Anatomy(towers, tuple(sorted(outside)))


def _above(name: str) -> list[str]:
    """A module's name, and those of the modules around it, from the innermost on."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)] + [""]


def _largest(name: str, used: Set[str]) -> str:
    """The largest module around one of no tower that holds nothing of a tower."""
    return [above for above in _above(name) if above not in used][-1]
