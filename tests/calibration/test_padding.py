"""Which positions of a linear's input count, however the block that holds it lays out its tokens."""

import torch
from torch import Tensor, nn

from ressa.calibration.capture import Call
from ressa.calibration.padding import Kept
from ressa.fused import ROWS, Rows

BATCH, LENGTH, WIDTH = 2, 5, 8
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)


class Block(nn.Module):
    """Called as the blocks of language towers are."""

    def forward(
        self,
        hidden_states: Tensor,
        merged_attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        raise NotImplementedError("only its signature is looked at")


def kept(states: Tensor | None = None, mask: Tensor | None = MASK, **arguments: Tensor) -> Kept:
    states = torch.randn(BATCH, LENGTH, WIDTH) if states is None else states
    return Kept(Block(), Call((states,), arguments), mask)


def test_tokens_of_several_streams_count_stream_by_stream():
    streams = torch.randn(BATCH, LENGTH, 4, WIDTH)
    given, counts = kept(streams).split(streams)
    assert given is streams
    assert torch.equal(counts, MASK[..., None].expand(BATCH, LENGTH, 4))
    _, counts = kept(streams).split(streams.mean(2))
    assert torch.equal(counts, MASK)
    given, counts = kept(streams).split(streams.mean(2).flatten(0, 1))
    assert given.shape == (BATCH, LENGTH, WIDTH)
    assert torch.equal(counts, MASK)


def test_streams_may_stand_before_the_batch():
    """As in Gemma 3n."""
    streams = torch.randn(4, BATCH, LENGTH, WIDTH)
    own = kept(streams)
    given, counts = own.split(streams)
    assert torch.equal(given, streams.movedim(0, 2))
    assert torch.equal(counts, MASK[..., None].expand(BATCH, LENGTH, 4))
    assert torch.equal(own.split(streams[1])[1], MASK)


def test_the_axis_of_the_tokens_is_the_one_that_is_as_long():
    for shape in ((BATCH, 1, LENGTH, 3), (BATCH, 4, LENGTH, 3), (BATCH, LENGTH, 4, 3)):
        x = torch.randn(shape)
        _, counts = kept().split(x)
        axis = shape.index(LENGTH)
        expected = MASK[:, None] if axis == 2 else MASK[:, :, None]
        assert torch.equal(counts, expected.expand(shape[:-1])), shape


def test_one_mask_for_a_decoders_own_tokens_and_those_of_the_encoder():
    theirs = torch.tensor([[1, 1, 1], [1, 0, 1]], dtype=torch.bool)
    merged = torch.cat([MASK, theirs], 1)[:, None, None].expand(BATCH, 1, LENGTH, LENGTH + 3)
    encoder = torch.randn(BATCH, 3, WIDTH)
    own = kept(merged_attention_mask=merged, encoder_hidden_states=encoder)
    assert torch.equal(own.split(encoder)[1], theirs)
    assert torch.equal(own.split(torch.randn(BATCH, LENGTH, WIDTH))[1], MASK)


def test_experts_count_the_rows_that_are_no_padding():
    x = torch.randn(3, WIDTH)
    setattr(x, ROWS, Rows(torch.tensor([0, 7, 9]), BATCH * LENGTH))
    assert kept().split(x)[1].tolist() == [True, True, False]


def test_experts_for_one_kind_of_token_count_rows_of_that_kind():
    kinds = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
    words, pictures = torch.randn(3, WIDTH), torch.randn(2, WIDTH)
    setattr(words, ROWS, Rows(torch.tensor([0, 3, 5]), 6))  # of the second sample: its first, and last, word
    setattr(pictures, ROWS, Rows(torch.tensor([1, 3]), 4))
    own = kept(token_type_ids=kinds)
    assert own.split(words)[1].tolist() == [True, True, False]
    assert own.split(pictures)[1].tolist() == [True, True]


def test_rows_of_what_cannot_be_told_count_as_a_whole():
    kinds = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    x = torch.randn(2, WIDTH)
    setattr(x, ROWS, Rows(torch.tensor([3, 4]), 5))
    assert kept(token_type_ids=kinds).split(x)[1] is None


def test_inputs_of_unknown_length_count_as_a_whole():
    assert kept().split(torch.randn(BATCH, 1, 7, WIDTH))[1] is None
    assert kept().split(torch.randn(BATCH + 1, LENGTH, WIDTH))[1] is None


def test_a_mask_in_which_padding_attends_to_itself_leaves_it_out_all_the_same():
    """As BERT's in Grounding-DINO."""
    apart = torch.eye(LENGTH, dtype=torch.bool) | (MASK[:, None, :] & MASK[:, :, None])
    x = torch.randn(BATCH, LENGTH, WIDTH)
    assert torch.equal(kept(merged_attention_mask=apart[:, None]).split(x)[1], MASK)
    assert kept(mask=None, merged_attention_mask=apart[:, None]).split(x)[1] is None


def test_a_mask_that_says_the_opposite_of_the_models_marks_padding():
    words = torch.randn(BATCH, LENGTH, WIDTH)
    picture = torch.randn(BATCH, 7, WIDTH)
    own = kept(picture, encoder_hidden_states=words, encoder_attention_mask=~MASK)
    assert torch.equal(own.split(words)[1], MASK)
    assert own.split(torch.randn(BATCH, 7, WIDTH))[1] is None


def test_pytorchs_name_for_a_mask_of_padding_is_known():
    x = torch.randn(BATCH, LENGTH, WIDTH)
    own = kept(mask=None, key_padding_mask=~MASK)
    assert torch.equal(own.split(x)[1], MASK)


def test_a_block_that_is_given_words_counts_those_that_are_there():
    """As Gemma 3n embeds all words as if they were pictures."""

    class Table(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            raise NotImplementedError("only its signature is looked at")

    ids = torch.ones(BATCH, LENGTH, dtype=torch.long)
    own = Kept(Table(), Call((ids,), {}), MASK, reads_text=False)
    assert torch.equal(own.split(torch.randn(BATCH, LENGTH, WIDTH))[1], MASK)
    assert (
        Kept(Table(), Call((ids[:, 1:],), {}), MASK).split(torch.randn(BATCH, LENGTH - 1, WIDTH))[1] is None
    )
