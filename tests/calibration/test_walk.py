"""The walk gives every linear's statistics as a whole forward through the model would, block by block."""

import inspect

import pytest
import torch
from families import FAMILIES, IMAGE_TOKEN, QUERIES, Family, every_family
from torch import Tensor, nn

from ressa.anatomy import Anatomy, Block, Chain, Tower, find_anatomy
from ressa.calibration.padding import image_positions
from ressa.calibration.statistics import Hessian, InputNorm
from ressa.calibration.tokens import VisualDistance, select_tokens
from ressa.calibration.walk import walk
from ressa.errors import UsageError

CROSSED = (  # keys and values of what another tower or chain gives
    *("EncDecAttention.k", "EncDecAttention.v"),
    *("crossattention.self.key", "crossattention.self.value"),
    *("encoder_attn.k_proj", "encoder_attn.v_proj"),
    *("cross_attn.k_proj", "cross_attn.v_proj"),
)


def reference_keep(family: Family, anatomy: Anatomy, layer: str, batch: dict[str, Tensor]) -> Tensor | None:
    """What counts, layer by layer, from what is known of each family: None for all."""
    tower = anatomy.tower_of(layer)
    text = batch["attention_mask"].bool()
    if tower == "vision":
        return None
    if tower == "connector":
        if not layer.startswith("qformer") or "qformer_attention_mask" not in batch:
            return None
        words = batch["qformer_attention_mask"].bool()
        if "crossattention" in layer or "_query" in layer:
            return None
        queries = torch.ones(len(words), QUERIES, dtype=torch.bool)
        return torch.cat([queries, words], 1) if ".attention." in layer else words
    reads = {chain.name: chain.reads_labels for chain in anatomy.chains("language")}
    if next(reads[name] for name in reads if layer.startswith(name + ".")):
        return text if layer.endswith(CROSSED) else batch["labels"] != -100
    return None if layer.endswith(CROSSED) else text


@torch.no_grad()
def reference(family, model, anatomy, batches, layers) -> dict[str, InputNorm]:
    """Statistics by plain hooks on whole forwards."""
    modules = dict(model.named_modules())
    found = {name: InputNorm(modules[name].in_features) for name in layers}
    for batch in batches:
        hooks = []
        for name in layers:
            keep = reference_keep(family, anatomy, name, batch)

            def take(_m, args, name=name, keep=keep):
                x = args[0] if keep is None else args[0].reshape(*keep.shape, -1)  # OPT flattens
                found[name].update(x, keep)

            hooks.append(modules[name].register_forward_pre_hook(take))
        model(**batch)
        for hook in hooks:
            hook.remove()
    return found


def equal(mine: InputNorm, other: InputNorm) -> bool:
    return mine.count == other.count and torch.equal(mine.sum_squares, other.sum_squares)


def close(mine: InputNorm, other: InputNorm) -> bool:
    """In half precision a product rounds otherwise when its input, a slice, lies in memory without gaps."""
    return mine.count == other.count and torch.allclose(mine.sum_squares, other.sum_squares, rtol=0.02)


def batches_of(family: Family) -> list[dict[str, Tensor]]:
    return [family.batch(seed) for seed in (0, 10)]


def norm(_name: str, linear: nn.Linear) -> InputNorm:
    return InputNorm(linear.in_features, linear.weight.device)


def assert_walk_equals_reference(
    family: Family, model: nn.Module, batches: list[dict[str, Tensor]], same=equal
) -> None:
    anatomy = find_anatomy(model)
    expected = reference(family, model, anatomy, batches, anatomy.linears())
    seen: list[str] = []

    def visit(block: Block, statistics: dict[str, InputNorm]) -> None:
        assert list(statistics) == list(block.linears)
        for name, found in statistics.items():
            assert same(found, expected[name]), name
        seen.extend(statistics)

    walk(model, anatomy, batches, visit, norm)
    assert sorted(seen) == sorted(anatomy.linears())


@every_family
def test_statistics_equal_those_of_whole_forwards(family):
    assert_walk_equals_reference(family, family.model(), batches_of(family))


@pytest.mark.parametrize("name", ["instructblip-t5", "llava", "qwen3-vl"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_they_do_in_bfloat16_and_with_every_attention(name, attention):
    family = FAMILIES[name]
    model = family.model().bfloat16()
    model.set_attn_implementation(attention)
    batches = [
        {k: v.bfloat16() if v.is_floating_point() else v for k, v in b.items()} for b in batches_of(family)
    ]
    assert_walk_equals_reference(family, model, batches, same=close)


@pytest.mark.parametrize("where", ["behind", "between"])
@pytest.mark.parametrize(
    "name", ["llava", "paligemma", "qwen2.5-vl", "qwen3-vl", "smolvlm", "gemma3", "mllama"]
)
def test_text_without_a_picture_counts_in_the_language_tower_alone(name, where):
    family = FAMILIES[name]
    text = {key: family.batch(20)[key] for key in ("input_ids", "attention_mask", "labels")}
    text["input_ids"] = text["input_ids"].masked_fill(text["input_ids"] == IMAGE_TOKEN, 5)
    batches = batches_of(family)
    batches.insert(2 if where == "behind" else 1, text)
    assert_walk_equals_reference(family, family.model(), batches)


def test_an_encoder_and_a_decoder_of_one_length_are_told_apart():
    family = FAMILIES["instructblip-t5"]
    batch = family.batch()
    length = batch["input_ids"].shape[1]
    labels = torch.randint(4, 50, (2, length))
    labels[0, 3:] = -100  # the decoder's padding is not where the encoder's is
    assert_walk_equals_reference(family, family.model(), [{**batch, "labels": labels}])


def test_padding_on_the_left_is_left_out_too():
    family = FAMILIES["llava"]
    batch = {name: value.flip(1) if value.dim() == 2 else value for name, value in family.batch().items()}
    assert not batch["attention_mask"][1, 0]
    assert_walk_equals_reference(family, family.model(), [batch])


@every_family
def test_each_block_is_fed_by_its_pruned_predecessors(family):
    model = family.model()
    anatomy = find_anatomy(model)
    batches = batches_of(family)
    modules = dict(model.named_modules())

    def visit(block: Block, statistics: dict[str, InputNorm]) -> None:
        expected = reference(family, model, anatomy, batches, block.linears)
        for name, found in statistics.items():
            assert equal(found, expected[name]), name
            weight = modules[name].weight
            weight.data[weight.abs() < weight.abs().median()] = 0

    walk(model, anatomy, batches, visit, norm)


@every_family
def test_order_follows_the_data(family):
    model = family.model()
    anatomy = find_anatomy(model)
    visited: list[str] = []
    walk(model, anatomy, [family.batch()], lambda block, _: visited.append(block.name), norm)
    called: list[str] = []
    hooks = [
        model.get_submodule(block.name).register_forward_pre_hook(
            lambda _m, _a, name=block.name: called.append(name) if name not in called else None
        )
        for block in anatomy.blocks()
    ]
    model(**family.batch())
    for hook in hooks:
        hook.remove()
    assert visited == called
    if family.name != "clip":  # whose towers run side by side
        assert [
            anatomy.tower_of(model_linear(anatomy, name)) for name in visited if "merger_list" not in name
        ] == [
            tower
            for tower in anatomy.towers
            for block in anatomy.blocks(tower)
            if "merger_list" not in block.name
        ]


def model_linear(anatomy: Anatomy, block: str) -> str:
    return next(b.linears[0] for b in anatomy.blocks() if b.name == block)


@every_family
def test_the_model_is_left_as_it_was(family):
    model = family.model().train()
    anatomy = find_anatomy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(**family.batch())  # transformers installs hooks of its own on the first forward
    hooks = count_hooks(model)
    cached = [getattr(m.config, "use_cache", None) for m in model.modules() if hasattr(m, "config")]
    walk(model, anatomy, [family.batch()], lambda *_: None, norm)
    assert all(module.training for module in model.modules())
    assert cached == [getattr(m.config, "use_cache", None) for m in model.modules() if hasattr(m, "config")]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert count_hooks(model) == hooks


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def count_forwards(family: Family, batches: int, monkeypatch: pytest.MonkeyPatch) -> int:
    model = family.model()
    forward, runs = type(model).forward, [0]

    def counted(self, *args, **kwargs):
        runs[0] += 1
        return forward(self, *args, **kwargs)

    counted.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(type(model), "forward", counted)
    walk(model, find_anatomy(model), [family.batch(i) for i in range(batches)], lambda *_: None, norm)
    return runs[0]


def test_a_chain_needs_one_whole_forward_a_batch(monkeypatch):
    # One for the order; three chains, of which two have several blocks, whose links one more forward checks.
    assert count_forwards(FAMILIES["llava"], 5, monkeypatch) == 1 + 3 * 5 + 2


def count_computed(family: Family, batches: int) -> dict[str, int]:
    """Block → how often the MLPs of the language tower ran in a walk over that tower."""
    model = family.model()
    anatomy = find_anatomy(model)
    runs = {block.name: 0 for block in anatomy.blocks("language")}
    for name in runs:

        def count(*_: object, name: str = name) -> None:
            runs[name] += 1

        model.get_submodule(f"{name}.mlp").register_forward_pre_hook(count)
    inputs = [family.batch(i) for i in range(batches)]
    walk(model, anatomy, inputs, lambda *_: None, norm, layers=anatomy.linears("language"))
    return runs


def test_no_forward_computes_the_blocks_whose_inputs_it_records():
    # Once for the order; then for the statistics and, in all blocks but the last, for what the next one gets.
    assert list(count_computed(FAMILIES["llava"], 5).values()) == [1 + 5 + 5, 1 + 5]


def test_a_block_that_gives_what_no_argument_is_shaped_like_computes_for_itself():
    model = Toy()
    model.blocks = nn.ModuleList([Grows(8), Residual(8, 1.0), Residual(8, 1.0)])
    anatomy = toy_anatomy(("blocks", 3))
    batches = [toy_batch(0), toy_batch(1)]
    found: dict[str, InputNorm] = {}
    walk(model, anatomy, batches, lambda _, made: found.update(made), norm)
    for name, statistic in found.items():
        expected = InputNorm(model.get_submodule(name).in_features)
        hook = model.get_submodule(name).register_forward_pre_hook(
            lambda _m, args, expected=expected: expected.update(args[0])
        )
        with torch.no_grad():
            for batch in batches:
                model(**batch)
        hook.remove()
        assert equal(statistic, expected), name


class Hands(nn.Module):
    """Leaves what it made in a mapping, or adds what it finds there."""

    def __init__(self, leaves: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)
        self.leaves = leaves

    def forward(self, x: Tensor, shared: dict[str, Tensor]) -> Tensor:
        made = self.linear(x)
        if self.leaves:
            shared["kept"] = made
            return x + made
        return x + made * shared["kept"]


class Handing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Hands(leaves) for leaves in (True, False, False)])
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values: Tensor) -> Tensor:
        x, shared = pixel_values[:, 0], {}
        for block in self.blocks:
            x = block(x, shared=shared)
        return x


def test_blocks_find_what_those_before_left_for_them_as_pruned():
    torch.manual_seed(0)
    model = Handing()
    batches = [toy_batch(0, images=1), toy_batch(1, images=1)]

    @torch.no_grad()
    def visit(block: Block, found: dict[str, InputNorm]) -> None:
        (name,) = block.linears
        expected = InputNorm(8)
        linear = model.get_submodule(name)
        hook = linear.register_forward_pre_hook(lambda _m, args: expected.update(args[0]))
        for batch in batches:
            model(**batch)
        hook.remove()
        assert equal(found[name], expected), name
        linear.weight.mul_(0.5)

    walk(model, toy_anatomy(("blocks", 3)), batches, visit, norm)


def test_linears_of_one_input_share_their_statistics():
    family = FAMILIES["llava"]
    model = family.model()
    anatomy = find_anatomy(model)

    def visit(block: Block, found: dict[str, InputNorm]) -> None:
        objects = {name.removeprefix(f"{block.name}."): id(made) for name, made in found.items()}
        assert len({objects[f"self_attn.{name}_proj"] for name in "qkv"}) == 1
        assert objects["mlp.gate_proj"] == objects["mlp.up_proj"]
        assert len(set(objects.values())) == 4

    walk(model, anatomy, batches_of(family), visit, norm, layers=anatomy.linears("language"))


def test_linears_that_the_first_call_does_not_reach_see_all_that_later_ones_give_them():
    model = Sometimes(Routed())
    names = ("blocks.0.one", "blocks.0.two")
    anatomy = Anatomy({"vision": Tower("vision", (Chain("blocks", (Block("blocks.0", names),)),))})
    batches = [toy_batch(seed, images=1) for seed in range(4)]
    images = [batch["pixel_values"][:, 0] for batch in batches]
    for image in images[2:]:
        image.sub_(100)
    found: dict[str, InputNorm] = {}
    walk(model, anatomy, batches, lambda _, made: found.update(made), norm)
    for name, seen in zip(names, (images, images[2:]), strict=True):
        expected = InputNorm(8)
        for image in seen:
            expected.update(image)
        assert equal(found[name], expected)


def test_linears_that_share_an_input_only_now_and_then_share_nothing():
    model = Sometimes(TwoLinears())
    blocks = (Block("blocks.0", ("blocks.0.one", "blocks.0.two")),)
    anatomy = Anatomy({"vision": Tower("vision", (Chain("blocks", blocks),))})
    batches = [toy_batch(seed, images=1) for seed in range(3)]
    (images := [batch["pixel_values"][:, 0] for batch in batches])[1].sub_(100)  # told apart by its sign
    found: dict[str, InputNorm] = {}
    walk(model, anatomy, batches, lambda _, made: found.update(made), norm)
    one, two = InputNorm(8), InputNorm(8)
    for image in images:
        one.update(image)
        two.update(image if image.mean() > -50 else image * 2)
    assert equal(found["blocks.0.one"], one)
    assert equal(found["blocks.0.two"], two)


def test_blocks_that_the_model_adds_something_between_are_recorded_anew(monkeypatch):
    # Image features are added before the 2nd and 3rd language block: each starts a run of its own.
    plain = 1 + 4 * 5 + 2 + 1  # vision, merger, the list of two mergers, language
    assert count_forwards(FAMILIES["qwen3-vl"], 5, monkeypatch) > plain


def test_layers_without_statistics_and_blocks_that_are_not_asked_for_are_passed_by():
    family = FAMILIES["llava"]
    model = family.model()
    anatomy = find_anatomy(model)
    layers = anatomy.linears("language")[8:10]
    visited: list[tuple[str, list[str]]] = []
    walk(
        model,
        anatomy,
        [family.batch()],
        lambda block, found: visited.append((block.name, list(found))),
        lambda name, linear: norm(name, linear) if name == layers[0] else None,
        layers=layers,
    )
    assert visited == [(anatomy.blocks("language")[1].name, layers[:1])]


def test_a_layer_that_calibration_never_reaches_is_named():
    family = FAMILIES["instructblip-t5"]
    model = family.model()
    idle = "qformer.encoder.layer.0.intermediate.dense"  # the Q-Former's words pass through it
    batch = {k: v for k, v in family.batch().items() if not k.startswith("qformer")}
    batch["qformer_input_ids"] = torch.zeros(2, 0, dtype=torch.long)
    batch["qformer_attention_mask"] = torch.zeros(2, 0, dtype=torch.long)
    with pytest.raises(UsageError, match=idle):
        walk(model, find_anatomy(model), [batch], lambda *_: None, norm)


def test_a_block_that_never_runs_is_named_before_anything_is_visited():
    model = Toy()
    model.idle = nn.ModuleList([Residual(8, 1.0)])
    anatomy = toy_anatomy(("blocks", 3), ("idle", 1))
    visited: list[str] = []
    with pytest.raises(UsageError, match=r"idle\.0\.linear"):
        walk(model, anatomy, [toy_batch()], lambda block, _: visited.append(block.name), norm)
    assert not visited


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 100.0])
@pytest.mark.parametrize("name", ["llava", "instructblip-t5"])
def test_token_choice_counts_the_image_tokens_that_change_most(name, alpha):
    family = FAMILIES[name]
    model = family.model()
    anatomy = find_anatomy(model)
    batches = batches_of(family)
    block = anatomy.blocks("language")[0]
    linear = block.linears[0]
    seen: list[tuple[Tensor, Tensor]] = []
    hook = model.get_submodule(block.name).register_forward_hook(
        lambda _m, args, kwargs, out: seen.append(
            (args[0] if args else kwargs["hidden_states"], out[0] if isinstance(out, tuple) else out)
        ),
        with_kwargs=True,
    )
    inputs: list[Tensor] = []
    taken = model.get_submodule(linear).register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    hook.remove()
    taken.remove()
    distance = VisualDistance()
    texts = [batch["attention_mask"].bool() for batch in batches]
    visuals = [image_positions(model, batch) for batch in batches]
    for (before, after), visual, text in zip(seen, visuals, texts, strict=True):
        distance.update(before, after, visual, text)
    expected = InputNorm(inputs[0].shape[-1])
    for x, (before, after), visual, text in zip(inputs, seen, visuals, texts, strict=True):
        expected.update(x, select_tokens(before, after, visual, text, alpha, distance.mean()))
    found: dict[str, InputNorm] = {}
    walk(model, anatomy, batches, lambda _, made: found.update(made), norm, atv=alpha)
    assert equal(found[linear], expected)
    words = sum(int((text & ~visual).sum()) for text, visual in zip(texts, visuals, strict=True))
    assert expected.count == words if alpha == 0 else expected.count >= words


def test_token_choice_without_image_tokens_is_refused():
    family = FAMILIES["clip"]
    model = family.model()
    with pytest.raises(UsageError, match="image tokens"):
        walk(model, find_anatomy(model), [family.batch()], lambda *_: None, norm, atv=1.0)


def test_any_statistic_can_be_gathered():
    family = FAMILIES["blip2-opt"]
    model = family.model()
    anatomy = find_anatomy(model)
    found: dict[str, Hessian] = {}
    walk(
        model,
        anatomy,
        batches_of(family),
        lambda _, made: found.update(made),
        lambda _, linear: Hessian(linear.in_features),
        layers=anatomy.linears("language"),
    )
    counts = {h.count for h in found.values()}
    assert counts == {sum(int(b["attention_mask"].sum()) for b in batches_of(family))}
    assert {h.samples for h in found.values()} == {
        4
    }  # OPT flattens its tokens: they are four samples all the same


class Residual(nn.Module):
    """A block that writes into what it is given, as some do."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.act = nn.Tanh()
        self.scale = scale

    def forward(self, x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        x += self.scale * self.act(self.linear(x)) + shift
        return x, shift


class Grows(nn.Module):
    """A block that gives more tokens than it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([x, self.linear(x)], 1), shift


class TwoLinears(nn.Module):
    """Gives its second linear what its first was given, or something of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x if x.mean() > -50 else x * 2)


class Routed(TwoLinears):
    """Calls its second linear, after the first, for some inputs only, as experts are called."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return y if x.mean() > -50 else y + self.two(x.clone())


class Sometimes(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block])
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.blocks[0](pixel_values[:, 0])


class Toy(nn.Module):
    """Calls its blocks once an image, and between the second and the third changes the states in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Residual(8, 1.0) for _ in range(3)])
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values: Tensor) -> Tensor:
        given = []
        for image in pixel_values.unbind(1):
            x, shift = image.clone(), image.mean(1, keepdim=True)
            for i, block in enumerate(self.blocks):
                if i == 2:
                    x.mul_(0.5)
                x, _ = block(x, shift * (i + 1))
            given.append(x)
        return torch.stack(given)


def toy_batch(seed: int = 0, images: int = 2) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, images, 5, 8, generator=torch.Generator().manual_seed(seed))}


def toy_anatomy(*lists: tuple[str, int]) -> Anatomy:
    chains = tuple(
        Chain(name, tuple(Block(f"{name}.{i}", (f"{name}.{i}.linear",)) for i in range(n)))
        for name, n in lists
    )
    return Anatomy({"vision": Tower("vision", chains)})


def test_blocks_called_once_an_image_that_write_into_their_inputs():
    model = Toy()
    anatomy = toy_anatomy(("blocks", 3))
    batches = [toy_batch(0), toy_batch(1, images=3)]

    def visit(block: Block, statistics: dict[str, InputNorm]) -> None:
        (name,) = block.linears
        expected = InputNorm(8)
        hook = model.get_submodule(name).register_forward_pre_hook(lambda _m, args: expected.update(args[0]))
        for batch in batches:
            model(**batch)
        hook.remove()
        assert equal(statistics[name], expected)
        weight = model.get_submodule(name).weight
        weight.data[weight.abs() < weight.abs().median()] = 0

    walk(model, anatomy, batches, visit, norm)
