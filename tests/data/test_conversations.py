"""Samples of several turns, of several pictures and of none, as model inputs."""

import pytest
import torch
from PIL import Image
from zoo.processed import processed

from ressa.data.batcher import Batcher
from ressa.data.checking import readable
from ressa.data.faults import Faults
from ressa.data.rows import IGNORED
from ressa.data.sample import PICTURE, Sample
from ressa.errors import UsageError
from ressa.warned import RessaWarning
from tests.data.more_vlms import MORE
from tests.data.test_batcher import target_log_likelihoods
from tests.data.vlms import VLMS

RED, BLUE = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
CHAT = (
    "<s>{% for message in messages %}{{ message['role'] == 'user' and 'question:' or 'answer:' }} "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}"
    "{{ part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' %}</s>{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}answer:{% endif %}"
)
TALK = Sample(
    RED,
    "and how many?",
    "two",
    "talk",
    earlier=(("what is in the picture?", "a red cat"), ("is it near the tree?", "yes")),
)
TEXT = Sample(None, "how many?", "three", "text")
TWO = Sample((RED, BLUE), f"is {PICTURE} left of {PICTURE}?", "no", "two")


def batcher_of(name, chat=None):
    model, processor = (VLMS | MORE)[name]()
    if chat:
        processor.chat_template = chat
    return model, Batcher(processor, model.config)


@pytest.fixture(
    params=[("llava", CHAT), ("llava", None), ("llava-next", CHAT), ("paligemma", None)],
    ids=lambda each: each[0],
)
def vlm(request):
    return batcher_of(*request.param)


def words(batcher, ids):
    """Decoded, each run of image tokens as one."""
    text = batcher.tokenizer.decode(ids).split()
    return " ".join(
        word for place, word in enumerate(text) if word != "<image>" or text[place - 1 : place] != ["<image>"]
    )


def learned(batcher, labels):
    """The runs of labels, decoded."""
    runs, before = [], IGNORED
    for label in labels.tolist():
        if label != IGNORED:
            runs += [[]] if before == IGNORED else []
            runs[-1].append(label)
        before = label
    return [batcher.tokenizer.decode(run) for run in runs]


def test_a_conversation_is_written_by_the_chat_template_and_every_answer_is_learned():
    _, batcher = batcher_of("llava", CHAT)
    batch = batcher.training([TALK])
    assert words(batcher, batch["input_ids"][0]) == (
        "<s> question : <image> what is in the picture ? answer : a red cat </s> question : is it near the tree ? "
        "answer : yes </s> question : and how many ? answer : two </s>"
    )
    assert learned(batcher, batch["labels"][0]) == ["a red cat </s>", "yes </s>", "two </s>"]


def test_without_a_chat_template_the_turns_stand_behind_each_other():
    _, batcher = batcher_of("llava")
    batch = batcher.training([TALK])
    assert words(batcher, batch["input_ids"][0]).endswith(
        "<image> what is in the picture ? a red cat is it near the tree ? yes and how many ? two </s>"
    )
    assert learned(batcher, batch["labels"][0]) == ["a red cat", "yes", "two </s>"]


def test_to_be_asked_a_conversation_ends_before_its_last_answer():
    _, batcher = batcher_of("llava", CHAT)
    asked, learns = batcher.generation([TALK])["input_ids"][0], batcher.training([TALK])["input_ids"][0]
    assert torch.equal(asked, learns[: len(asked)])
    assert words(batcher, asked).endswith("answer : yes </s> question : and how many ? answer :")


def test_one_turn_of_a_conversation_is_as_likely_as_alone(vlm):
    """What is learned of the last turn does not depend on whether earlier turns are learned as well."""
    model, batcher = vlm
    last = batcher.training([TALK])
    ids, labels = last["input_ids"][0], last["labels"][0]
    only = torch.full_like(labels, IGNORED)
    length = len(batcher.targets([TALK])[0])
    only[-length:] = labels[-length:]
    assert torch.equal(labels[-length:], batcher.targets([TALK])[0])
    prompt = batcher.generation([TALK])["input_ids"][0]
    assert torch.equal(torch.cat([prompt, batcher.targets([TALK])[0]]), ids)
    assert torch.isfinite(target_log_likelihoods(model, {**last, "labels": only[None]})).all()


def test_an_encoder_decoder_learns_a_conversation_turn_by_turn():
    _, batcher = batcher_of("instructblip")
    apart = batcher.apart([TALK])
    assert [(sample.prompt, sample.target) for sample in apart] == [*TALK.earlier, ("and how many?", "two")]
    batch = batcher.training(apart[1:2])
    assert words(batcher, batch["input_ids"][0]).endswith(
        "what is in the picture ? a red cat is it near the tree ? </s>"
    )
    assert learned(batcher, batch["labels"][0]) == ["yes </s>"]
    assert batcher_of("llava")[1].apart([TALK]) == [TALK]


def test_samples_without_a_picture_have_no_image_tokens_and_share_a_batch(vlm):
    model, batcher = vlm
    seeing = Sample(BLUE, "what is in the picture?", "dog", "seeing")
    batch = batcher.training([TEXT, seeing, TEXT])
    image = batch["input_ids"] == batcher.text.image_token_id
    assert (image.any(1)).tolist() == [False, True, False]
    assert len(batch["pixel_values"]) == 1
    together = target_log_likelihoods(model, batch)
    alone = torch.cat(
        [target_log_likelihoods(model, batcher.training([each])) for each in (TEXT, seeing, TEXT)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
    assert "pixel_values" not in batcher.training([TEXT])
    asked = batcher.generation([TEXT, seeing])
    assert not (asked["input_ids"][0] == batcher.text.image_token_id).any()
    assert asked["attention_mask"].sum(1).tolist() == [
        batcher.generation([each])["input_ids"].shape[1] for each in (TEXT, seeing)
    ]


@pytest.mark.parametrize("name", ["blip", "blip2", "instructblip"])
def test_families_that_cannot_read_text_alone_say_so(name):
    _, batcher = batcher_of(name)
    with pytest.raises(
        UsageError, match="sample text shows no picture, and this model reads no text without one"
    ):
        batcher.training([TEXT])
    seeing = Sample(BLUE, "what is in the picture?", "dog", "seeing")
    faults = Faults("skip")
    assert readable([TEXT, seeing], batcher, faults) == [seeing]
    with pytest.warns(RessaWarning, match="1 entry"):
        faults.settle()


def test_pictures_stand_where_the_prompt_places_them():
    model, batcher = batcher_of("llava", CHAT)
    batch = batcher.training([TWO])
    assert words(batcher, batch["input_ids"][0]) == (
        "<s> question : is <image> left of <image> ? answer : no </s>"
    )
    assert len(batch["pixel_values"]) == 2
    swapped = Sample((BLUE, RED), TWO.prompt, TWO.target)
    one, other = (target_log_likelihoods(model, batcher.training([each])) for each in (TWO, swapped))
    assert one != other
    unplaced = batcher.training([Sample((RED, BLUE), "how many?", "two")])
    assert words(batcher, unplaced["input_ids"][0]).startswith("<s> question : <image> how many")
    assert (unplaced["input_ids"] == batcher.text.image_token_id).sum() == (
        batch["input_ids"] == batcher.text.image_token_id
    ).sum()


def test_answers_before_a_later_picture_are_learned_too():
    _, batcher = batcher_of("llava", CHAT)
    later = Sample(
        (RED, BLUE),
        "how many?",
        "two",
        earlier=((f"{PICTURE} what is it?", "a red cat"), (f"and {PICTURE} what is it?", "a blue dog")),
    )
    batch = batcher.training([later])
    assert learned(batcher, batch["labels"][0]) == ["a red cat </s>", "a blue dog </s>", "two </s>"]
    assert words(batcher, batch["input_ids"][0]) == (
        "<s> question : <image> what is it ? answer : a red cat </s> question : and <image> what is it ? answer : "
        "a blue dog </s> question : how many ? answer : two </s>"
    )


@pytest.mark.parametrize("name", ["blip", "blip2", "instructblip"])
def test_families_that_take_one_picture_say_so(name):
    _, batcher = batcher_of(name)
    with pytest.raises(UsageError, match="sample two shows 2 pictures, and this model takes one"):
        batcher.training([TWO])


def test_a_template_for_one_turn_refuses_conversations():
    one_turn = (
        "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
        "<image> {{ messages[0]['content'][-1]['text'] }}"
    )
    _, batcher = batcher_of("llava", one_turn)
    with pytest.raises(UsageError, match="refuses a conversation of several turns"):
        batcher.training([TALK])
    _, batcher = batcher_of("llava", "<image> {{ messages[-1]['content'][-1]['text'] }} answer:")
    with pytest.raises(UsageError, match="does not write earlier answers"):
        batcher.training([TALK])


def test_text_may_come_first_and_fill_whole_batches_of_calibration():
    """Each order of the samples prunes vision and language alike."""
    from ressa import prune
    from ressa.checkpoint import Vlm
    from ressa.data import batches

    seeing = [
        Sample(picture, "what is in the picture?", "dog", str(n)) for n, picture in enumerate((RED, BLUE))
    ]
    texts = [Sample(None, "how many?", answer, answer) for answer in ("one", "two", "three")]
    masks = []
    for order in (texts + seeing, seeing + texts):
        model, batcher = batcher_of("llava")
        masks.append(prune(model, batches(Vlm(model, batcher.processor, "tiny"), order, 2), "2:4").masks)
    assert len(masks[0]) == len(masks[1]) > 10
    assert any("vision" in name for name in masks[0])


def test_a_conversation_that_is_too_long_ends_earlier():
    """The tiny model reads 256 tokens."""
    _, batcher = batcher_of("llava", CHAT)
    turns = tuple((f"is it the {word}?", "yes it is " * 8) for word in ("cat", "dog", "bird", "car") * 3)
    long = Sample(RED, "how many?", "two", "long", earlier=turns)
    assert batcher.length(long) > 256
    faults = Faults("stop")
    with pytest.warns(
        RessaWarning, match=r"longer than the model reads: 1 of 2; their last turns are left out"
    ):
        kept, other = readable([long, TALK], batcher, faults)
    faults.settle()
    assert other == TALK
    assert batcher.length(kept) <= 256
    assert kept.turns == long.turns[: len(kept.turns)]
    assert batcher.length(Sample(RED, *turns[0], earlier=())) < batcher.length(kept)
    assert readable([Sample(RED, "how many?", "two " * 300, "single")], batcher, faults) == []
    with pytest.raises(
        UsageError, match=r"sample single: has .* tokens with its image, and the model reads 256"
    ):
        faults.settle()


@pytest.mark.parametrize("family", ["idefics3", "gemma3", "janus", "llava_next"])
def test_families_of_every_layout_of_pixels_read_text_one_and_two_pictures_in_one_batch(family):
    """A row of pixels a sample (Idefics 3), a picture (Gemma 3), or some a picture (LLaVA-Next)."""
    model, processor = processed(family)
    model, batcher = model.float().eval(), Batcher(processor, model.config)
    seeing = Sample(BLUE, "what is in the picture ?", "dog", "seeing")
    for samples in ([TEXT, seeing, TEXT], [TWO, seeing]):
        together = target_log_likelihoods(model, batcher.training(samples))
        alone = torch.cat([target_log_likelihoods(model, batcher.training([each])) for each in samples])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
