"""The kernels' sources compile for every architecture, in every size that can be chosen, where NVRTC is installed."""

import re
from dataclasses import astuple, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ressa.errors import RunError
from ressa.runtime import kernels
from ressa.runtime.kernels import nvrtc, variants

needs_nvrtc = pytest.mark.skipif(
    not nvrtc.available(), reason="NVRTC is not installed (pip install ressa[nvrtc])"
)
SHARED = 232_448  # bytes that a CTA may have on sm_90
SIZES = [
    variants.Decode24(1, 1, 1, 8, 4, 2, 1),
    variants.Decode24(8, 1, 8, 1, 3, 2, 4),
    variants.Split24(1, 1, 1, 8, 4, 2, 1),
    variants.Split24(4, 2, 8, 1, 2, 2, 4),
    variants.Fp8Decode24(1, 1, 1, 8, 8, 2, 1),
    variants.Fp8Decode24(8, 1, 8, 1, 3, 2, 4),
]


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90a"])
def test_sources_compile(architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sources = [("decode24", size.macros(room)) for size in SIZES for room in {size.least_room, size.x_parts}]
    sources += [("unpack24", {"RESIDUAL": 0}), ("unpack24", {"RESIDUAL": 1})]
    if architecture == "sm_90a":
        sources += [
            ("prefill24", variants.Prefill24(1, 1, 2, 4, tokens).macros()) for tokens in (64, 96, 128, 160)
        ]
        every = {"SIGNALS": 32}  # lanes, as racecheck is run
        sources += [("prefill24", variants.Prefill24(1, 1, 2, 4, 96).macros() | every)]
        sources += [("decode24", SIZES[1].macros(SIZES[1].least_room) | every)]
    for bf16, (source, macros) in enumerate(sources):
        cubin = nvrtc.compiled(source, {"BF16": bf16 % 2, **macros}, architecture)
        assert cubin.startswith(b"\x7fELF")


@needs_nvrtc
def test_what_was_compiled_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    nvrtc._say_once.cache_clear()
    first = nvrtc.compiled("unpack24", {"BF16": 1, "RESIDUAL": 0}, "sm_90a")
    assert "compiling kernels for sm_90a" in capsys.readouterr().err
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: pytest.fail("compiled again"))
    assert nvrtc.compiled("unpack24", {"BF16": 1, "RESIDUAL": 0}, "sm_90a") == first
    with pytest.raises(pytest.fail.Exception):
        nvrtc.compiled("unpack24", {"BF16": 1, "RESIDUAL": 1}, "sm_90a")


@needs_nvrtc
def test_what_does_not_compile_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RunError, match=re.compile("could not compile decode24.*TOKEN_TILES", re.DOTALL)):
        nvrtc.compiled("decode24", {"BF16": 1, "RESIDUAL": 0}, "sm_90a")


@pytest.mark.parametrize("tokens", [1, 5, 8, 16, 33, 64])
@pytest.mark.parametrize(
    "shape", [(64, 64), (4096, 4096), (4096, 11008), (28672, 8192), (1000, 1152)], ids=str
)
def test_a_variant_is_chosen_for_any_layer(shape, tokens):
    candidates = list(variants.candidates(variants.Decode24, tokens, shape[1], 0, SHARED))
    chosen = variants.choose(shape, tokens, candidates, lambda _: True)
    if chosen is None:  # x does not fit: the tokens are taken in parts
        assert not candidates
        assert shape[1] * tokens > 400_000
    else:
        assert chosen.fits(tokens, shape[1], 0, SHARED)
    one_cta = variants.choose(shape, tokens, candidates, lambda variant: variant.splits == 1)
    assert one_cta is None or one_cta.splits == 1


@pytest.mark.parametrize("kind", [variants.Decode24, variants.Split24, variants.Fp8Decode24])
@pytest.mark.parametrize("tokens", [1, 32])
def test_the_barriers_have_room(kind, tokens):
    """They lie before the rings, which copies write to."""
    for variant in variants.candidates(kind, tokens, 4096, 5000 if kind is variants.Split24 else 0, SHARED):
        parts = variant.warps_k if variant.warps_k > 1 else 4
        assert 8 * (2 * parts + variant.warps * (variant.stages + variant.RECORDS)) <= 1024, variant


def test_a_table_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    candidates = list(variants.candidates(variants.Decode24, 1, 4096, 0, SHARED))
    variants.forget()
    shipped = variants.choose((4096, 4096), 1, candidates, lambda _: True)
    wanted = next(variant for variant in candidates if variant != shipped)
    from ressa.runtime.kernels import tuning

    tuning.keep({"decode24": [variants.entry((4096, 4096), 1, wanted)]})
    assert variants.choose((4096, 4096), 1, candidates, lambda _: True) == wanted
    tuning.keep({"decode24": [variants.entry((4096, 4096), 1, shipped)]})
    assert variants.choose((4096, 4096), 1, candidates, lambda _: True) == shipped
    variants.forget()


@given(
    rows=st.integers(1, 40_000),
    tokens=st.integers(65, 9000),
    multiprocessors=st.sampled_from([114, 132]),
    main=st.sampled_from(list(variants.prefill24_candidates())),
    tail=st.sampled_from(list(variants.prefill24_candidates())),
)
def test_a_tail_takes_what_no_round_of_all_multiprocessors_does(rows, tokens, multiprocessors, main, tail):
    both = variants.Prefill24(*astuple(main)[:5], tail=astuple(tail)[:5])
    assert main.parts(rows, tokens, multiprocessors) == [(main, 0, rows)]
    parts = both.parts(rows, tokens, multiprocessors)
    assert [begin for _, begin, _ in parts] == [0, *(end for _, _, end in parts[:-1])]
    assert parts[-1][2] == rows
    if len(parts) == 1:
        assert parts[0][0] == main
    else:
        (first, _, whole), (second, _, _) = parts
        assert (first, second) == (main, tail)
        tiles_n = -(-tokens // (main.tokens * main.cluster_n)) * main.cluster_n
        tile = 128 * main.warpgroups
        assert whole % (tile * main.cluster_m) == 0
        made = whole // tile * tiles_n
        # tiles of the rounds that all rows fill
        rounds = -(-rows // tile) * tiles_n // multiprocessors * multiprocessors
        assert made <= rounds < made + main.cluster_m * tiles_n


def test_a_variant_with_a_tail_is_kept_and_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from ressa.runtime.kernels import tuning

    candidates = list(variants.prefill24_candidates())
    both = replace(candidates[3], tail=astuple(candidates[7])[:5])
    tuning.keep({"prefill24": [variants.entry((22016, 4096), 640, both)]})
    assert variants.choose((22016, 4096), 640, candidates, lambda _: True) == both
    assert len(variants.entry((22016, 4096), 640, candidates[3])["variant"]) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    variants.forget()


def test_a_cpu_has_no_kernels():
    assert not kernels.supported(torch.device("cpu"), torch.bfloat16)
