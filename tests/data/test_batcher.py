"""A batch says the same as its samples one by one, whatever the family."""

import pytest
import torch
import transformers as hf
from PIL import Image
from zoo.processed import processed

from ressa.checkpoint import Vlm
from ressa.data.batcher import Batcher
from ressa.data.inputs import batch_size_for
from ressa.data.rows import IGNORED
from ressa.data.sample import Sample
from ressa.errors import UsageError
from tests.data.more_vlms import MORE
from tests.data.vlms import VLMS

RED, BLUE = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
SAMPLES = [
    Sample(RED, "Question: what is in the picture? Short answer:", "a red cat"),
    Sample(BLUE, "A short description:", "dog"),
    Sample(BLUE, "Question: how many? Short answer:", "three"),
]


@pytest.fixture(scope="module", params=VLMS | MORE)
def vlm(request):
    model, processor = (VLMS | MORE)[request.param]()
    return model, Batcher(processor, model.config)


def target_log_likelihoods(model, batch):
    """Σ log p(target token) of each row, written from the definition."""
    with torch.inference_mode():
        logits = model(**batch).logits.float()
    labels = batch["labels"]
    if "decoder_attention_mask" not in batch:  # decoder-only: position t predicts token t + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    picked = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return picked.masked_fill(labels == IGNORED, 0).sum(1)


def test_labels_decode_back_to_the_target_and_end(vlm):
    _, batcher = vlm
    batch = batcher.training(SAMPLES)
    for labels, sample in zip(batch["labels"], SAMPLES, strict=True):
        kept = labels[labels != IGNORED]
        assert kept[-1] == batcher.text.end.ids[-1]
        assert batcher.tokenizer.decode(kept, skip_special_tokens=True) == sample.target


def test_a_target_is_as_likely_alone_as_in_a_batch(vlm):
    model, batcher = vlm
    together = target_log_likelihoods(model, batcher.training(SAMPLES))
    alone = torch.cat([target_log_likelihoods(model, batcher.training([sample])) for sample in SAMPLES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)


def test_the_models_own_loss_is_the_mean_over_the_target_tokens(vlm):
    model, batcher = vlm
    batch = batcher.training(SAMPLES)
    tokens = (batch["labels"] != IGNORED).sum()
    with torch.inference_mode():
        loss = model(**batch).loss
    torch.testing.assert_close(loss, -target_log_likelihoods(model, batch).sum() / tokens)


def test_the_picture_reaches_the_model(vlm):
    model, batcher = vlm
    pair = [Sample(image, "A short description:", "a dog") for image in (RED, BLUE)]
    first, second = target_log_likelihoods(model, batcher.training(pair))
    assert abs(first - second) > 1e-3


def test_generated_text_is_the_same_alone_as_in_a_batch_and_holds_no_prompt(vlm):
    model, batcher = vlm

    def generate(samples):
        assert len(batcher.alike(samples)) == 1
        inputs = batcher.generation(samples)
        return batcher.decode(model.generate(**inputs, max_new_tokens=5, do_sample=False), inputs)

    together = {}
    for group in batcher.alike(SAMPLES):
        together |= dict(zip(group, generate([SAMPLES[index] for index in group]), strict=True))
    assert [together[index] for index in range(3)] == [generate([sample])[0] for sample in SAMPLES]
    assert all(len(text.split()) <= 5 for text in together.values())


def test_generation_starts_where_training_supervises(vlm):
    """The prompt of `generation` is the unsupervised part of `training`, token for token."""
    _, batcher = vlm
    training, generation = batcher.training(SAMPLES[:1]), batcher.generation(SAMPLES[:1])
    prompt = generation["input_ids"][0]
    if not batcher.pads_prompts:
        prompt = prompt[:-1]  # the end token, which BLIP's generate cuts off itself
    assert torch.equal(training["input_ids"][0, : len(prompt)], prompt)
    if not batcher.encoder_decoder:
        assert (training["labels"][0, : len(prompt)] == IGNORED).all()
        assert (training["labels"][0, len(prompt) :] != IGNORED).all()


def test_an_image_file_is_opened_once(vlm, tmp_path, monkeypatch):
    _, batcher = vlm
    path = tmp_path / "one.png"
    RED.save(path)
    opened = []
    monkeypatch.setattr("ressa.data.images.open_image", lambda p: opened.append(p) or RED)
    batcher.generation([Sample(path, "a")] * 3)
    batcher.generation([Sample(path, "a")])
    assert opened == [path]


def test_missing_and_broken_images_are_named(vlm, tmp_path):
    _, batcher = vlm
    with pytest.raises(UsageError, match=r"gone\.png does not exist"):
        batcher.generation([Sample(tmp_path / "gone.png", "a")])
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UsageError, match=r"text\.png cannot be read"):
        batcher.generation([Sample(tmp_path / "text.png", "a")])


def test_tokenizers_are_saved_as_they_were(vlm):
    _, batcher = vlm
    parts = [part for part in vars(batcher.processor).values() if hasattr(part, "backend_tokenizer")]
    assert parts
    batcher.training(SAMPLES)
    batcher.generation(SAMPLES[:1])
    assert {(part.backend_tokenizer.padding, part.backend_tokenizer.truncation) for part in parts} == {
        (None, None)
    }


def test_no_samples_and_no_target_are_refused(vlm):
    _, batcher = vlm
    with pytest.raises(UsageError, match="no samples"):
        batcher.training([])
    with pytest.raises(UsageError, match="no target"):
        batcher.training([Sample(RED, "a", id="7")])


def test_a_chat_template_is_used_and_its_start_token_not_doubled():
    model, processor = VLMS["llava"]()
    processor.chat_template = (
        "<s>{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer :{% endif %}"
    )
    batcher = Batcher(processor, model.config)
    batch = batcher.training(SAMPLES[:1])
    text = batcher.tokenizer.decode(batch["input_ids"][0])
    assert text.startswith("<s> <image>")
    assert text.endswith("short answer : answer : a red cat </s>")
    assert (batch["input_ids"] == 1).sum() == 1


def test_a_target_ends_with_what_the_chat_template_puts_behind_answers():
    model, processor = VLMS["llava"]()
    processor.chat_template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% if message['role'] == 'assistant' %} <pad> bird{% endif %}{% endfor %}"
    )
    batch = Batcher(processor, model.config).training(SAMPLES[1:2])
    assert batch["labels"][0, -2:].tolist() == [25, 0]  # dog <pad>: the special token this template ends with


def test_a_tokenizer_without_a_padding_token_is_padded_and_left_as_it_was():
    model, processor = VLMS["llava"]()
    expected = Batcher(processor, model.config).training(SAMPLES)
    processor.tokenizer.pad_token = None
    batcher = Batcher(processor, model.config)
    batch = batcher.training(SAMPLES)
    assert processor.tokenizer.pad_token is None
    assert torch.equal(batch["labels"], expected["labels"])
    torch.testing.assert_close(target_log_likelihoods(model, batch), target_log_likelihoods(model, expected))


def test_a_text_only_processor_is_refused():
    model, processor = VLMS["llava"]()
    with pytest.raises(UsageError, match="does not process both"):
        Batcher(processor.tokenizer, model.config)


def test_targets_get_the_tokens_they_have_behind_the_prompt():
    """A tokenizer that marks word starts (SentencePiece, byte BPE) sees the target as a continuation."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "▁", "▁cat", "cat", "▁a", "a", ":", "▁x"]
    core = Tokenizer(models.Unigram([(piece, -1.0 - i / 100) for i, piece in enumerate(pieces)], unk_id=3))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    model, processor = VLMS["llava"]()
    processor.tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    batch = Batcher(processor, model.config).training([Sample(RED, "x:", "cat")])
    tokens = processor.tokenizer.convert_ids_to_tokens(batch["labels"][batch["labels"] != IGNORED])
    assert tokens == ["▁cat", "</s>"]


def test_calibration_batches_are_as_large_as_keeps_a_device_busy():
    model, processor = VLMS["llava"]()
    vlm = Vlm(model, processor, "tiny")
    many = SAMPLES * 50
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (batch_size_for(vlm, many, cpu), batch_size_for(vlm, many, gpu)) == (16, 128)
    assert batch_size_for(vlm, many[:5], gpu) == 5
    longest = max(Batcher(processor, model.config).training([s])["input_ids"].shape[1] for s in SAMPLES)
    assert batch_size_for(vlm, many, gpu, 4 * longest) == batch_size_for(vlm, many, cpu, 4 * longest) == 4
    assert batch_size_for(vlm, many, gpu, 1) == 1


def test_a_sample_that_the_processor_refuses_is_named(monkeypatch):
    model, processor = VLMS["llava"]()
    batcher = Batcher(processor, model.config)
    plain = batcher.text.process

    def picky(images, texts):
        if any(image.size == (3, 3) for (image,) in images):
            raise ValueError("height:3 and width:3 must be larger than factor:28")
        return plain(images, texts)

    monkeypatch.setattr(batcher.text, "process", picky)
    tiny = Sample(Image.new("RGB", (3, 3)), "A short description:", "dog", "17")
    with pytest.raises(UsageError, match=r"sample 17 is refused by the model's processor \(height:3"):
        batcher.training([*SAMPLES, tiny])
    assert batcher.training(SAMPLES)["input_ids"].shape[0] == 3


def test_models_that_read_no_words_are_given_pictures_alone():
    """As TrOCR, Donut and Pix2Struct are."""
    for family, seen in (
        ("trocr", {"pixel_values"}),
        ("pix2struct", {"flattened_patches", "attention_mask"}),
    ):
        model, processor = processed(family)
        batcher = Batcher(processor, model.config)
        batch = batcher.training(SAMPLES)
        assert batch.keys() == seen | {"labels", "decoder_attention_mask"}
        assert batcher.generation(SAMPLES).keys() == seen
        together = target_log_likelihoods(model, batch)
        alone = torch.cat([target_log_likelihoods(model, batcher.training([sample])) for sample in SAMPLES])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
        inputs = batcher.generation(SAMPLES)
        written = model.generate(**inputs, max_new_tokens=3)
        assert len(batcher.decode(written, inputs)) == len(SAMPLES)
        assert batcher.length(SAMPLES[0]) == len(batcher.targets(SAMPLES[:1])[0])


def test_a_processor_that_takes_no_lists_of_pictures_is_given_pictures():
    """As GOT-OCR2's."""
    model, processor = VLMS["llava"]()

    class Flat(type(processor)):
        def __call__(self, images=None, text=None, **more):
            if images is not None and any(isinstance(shown, list) for shown in images):
                raise ValueError("Nested images are not supported.")
            return super().__call__(images=images, text=text, **more)

    batch = Batcher(processor, model.config).training(SAMPLES)
    processor.__class__ = Flat
    flat = Batcher(processor, model.config).training(SAMPLES)
    assert batch.keys() == flat.keys()
    assert all(torch.equal(value, flat[name]) for name, value in batch.items())
