"""What ends an answer, for tokenizers and templates shaped like those in the wild."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import transformers as hf
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from ressa.data import Sample
from ressa.data.batcher import Batcher
from ressa.data.ending import Ending, find_endings
from tests.data.vlms import IMAGE_SIZE, SQUARE

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
IMAGE = "<image>"


@dataclass(frozen=True)
class Kind:
    """A family's habits. turn: how a turn is written, with its role and text; flagged, unflagged: added tokens
    that are special or not; eos: the tokenizer's; stops: the generation config's; end: what ends an answer."""

    turn: str
    flagged: tuple[str, ...]
    eos: str
    stops: tuple[str, ...]
    end: str
    unflagged: tuple[str, ...] = ()
    behind: str = ""  # what the template writes when no answer is to follow
    config_eos: tuple[str, ...] = field(default=())
    appends: bool = False


CHATML = "<|im_start|>{role}\n{text}<|im_end|>\n"
KINDS = {
    "llama-3": Kind(
        turn="<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>",
        flagged=("<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        eos="<|end_of_text|>",
        stops=("<|end_of_text|>", "<|eot_id|>"),
        end="<|eot_id|>",
    ),
    "phi-3": Kind(
        turn="<|{role}|>\n{text}<|end|>\n",
        flagged=("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"),
        eos="<|endoftext|>",
        stops=("<|end|>", "<|endoftext|>"),
        end="<|end|>",
        behind="<|endoftext|>",
    ),
    "phi-3-vision, whose generation runs on to the end of the text": Kind(
        turn="<|{role}|>\n{text}<|end|>\n",
        flagged=("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"),
        eos="<|endoftext|>",
        stops=("<|endoftext|>",),
        end="<|end|>",
        behind="<|endoftext|>",
    ),
    "qwen": Kind(
        turn=CHATML,
        flagged=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|endoftext|>",
        stops=("<|im_end|>", "<|endoftext|>"),
        end="<|im_end|>",
    ),
    "gemma": Kind(
        turn="<start_of_turn>{role}\n{text}<end_of_turn>\n",
        flagged=("<eos>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        stops=("<eos>", "<end_of_turn>"),
        end="<end_of_turn>",
    ),
    "smolvlm": Kind(
        turn="{role}: {text}<end_of_utterance>\n",
        flagged=("<|endoftext|>", "<end_of_utterance>"),
        eos="<end_of_utterance>",
        stops=("<end_of_utterance>",),
        end="<end_of_utterance>",
    ),
    "idefics": Kind(
        turn="{role}: {text}<end_of_utterance>\n",
        flagged=("</s>", "<end_of_utterance>"),
        eos="</s>",
        stops=("</s>", "<end_of_utterance>"),
        end="<end_of_utterance>",
    ),
    "smollm2, its end not flagged and its eos a beginning": Kind(
        turn=CHATML,
        flagged=("<|im_start|>",),
        unflagged=("<|im_end|>",),
        eos="<|im_start|>",
        stops=("<|im_end|>",),
        end="<|im_end|>",
    ),
    "the same without a generation config": Kind(
        turn=CHATML,
        flagged=("<|im_start|>",),
        unflagged=("<|im_end|>",),
        eos="<|im_start|>",
        stops=(),
        config_eos=("<|im_start|>",),
        end="<|im_end|>",
    ),
    "vicuna, whose template writes nothing behind the answer": Kind(
        turn="{role}: {text} ", flagged=("</s>",), eos="</s>", stops=("</s>",), end="</s>"
    ),
    "mistral": Kind(turn="[{role}] {text}</s>", flagged=("</s>",), eos="</s>", stops=("</s>",), end="</s>"),
    "an end between two turns only": Kind(
        turn="{% if not loop.first %}</s>{% endif %}[{role}] {text}",
        flagged=("</s>", "<eos>"),
        eos="<eos>",
        stops=("</s>", "<eos>"),
        end="</s>",
    ),
    "no chat template, the tokenizer and the config at odds": Kind(
        turn="", flagged=("<a>", "<b>"), eos="<a>", stops=("<b>",), end="<b>"
    ),
    "t5, which ends every text itself": Kind(
        turn="", flagged=("</s>", "<b>"), eos="</s>", stops=("<b>",), end="</s>", appends=True
    ),
}


def make_processor(kind: Kind) -> Any:
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(BYTES)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(t, special=True, normalized=False) for t in kind.flagged])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in kind.unflagged])
    if kind.appends:
        core.post_processor = processors.TemplateProcessing(
            single=f"$A {kind.eos}", special_tokens=[(kind.eos, core.token_to_id(kind.eos))]
        )
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=kind.eos, extra_special_tokens={"image_token": IMAGE}
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE)
    processor = hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.chat_template = template(kind) or None
    return processor


def template(kind: Kind) -> str:
    """{role} and {text} as Jinja; the generation prompt is a turn that breaks off before its text."""
    if not kind.turn:
        return ""
    turn = kind.turn.replace("{role}", "{{ message['role'] }}").replace(
        "{text}",
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + IMAGE + "{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}",
    )
    opening = kind.turn.partition("{text}")[0].partition("{% endif %}")[2] or kind.turn.partition("{text}")[0]
    return (
        "{% for message in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}"
        f"{opening.replace('{role}', 'assistant').rstrip(' ')}{{% else %}}{kind.behind}{{% endif %}}"
    )


def make_batcher(kind: Kind) -> Batcher:
    processor = make_processor(kind)
    ids = processor.tokenizer.convert_tokens_to_ids
    text = hf.LlamaConfig(eos_token_id=[ids(token) for token in kind.config_eos] or None)
    config = hf.LlavaConfig(text_config=text, image_token_id=ids(IMAGE))
    generation = hf.GenerationConfig(eos_token_id=[ids(token) for token in kind.stops] or None)
    return Batcher(processor, config, generation)


@pytest.mark.parametrize("name", KINDS)
def test_a_target_ends_as_answers_do_and_generation_stops_there(name):
    kind = KINDS[name]
    batcher = make_batcher(kind)
    end = batcher.tokenizer.convert_tokens_to_ids(kind.end)
    sample = Sample(Image.new("RGB", (32, 32)), "which colour ?", "red")
    (target,) = batcher.targets([sample])
    assert target[-1] == end
    assert batcher.tokenizer.decode(target[:-1]).strip() == "red"
    stops = batcher.stopping().get("eos_token_id", batcher.text.endings.stops)
    assert end in stops
    # What comes back of such an answer is the answer, whether the end is flagged as special or not.
    assert batcher.text.read([[*target.tolist(), *[batcher.text.pad_id] * 3]]) == ["red"]


@pytest.mark.parametrize(
    ("name", "agreed"),
    [
        ("llama-3", True),
        ("qwen", True),
        ("mistral", True),
        ("smollm2, its end not flagged and its eos a beginning", True),
        ("the same without a generation config", False),
        ("phi-3-vision, whose generation runs on to the end of the text", False),
        ("no chat template, the tokenizer and the config at odds", False),
        ("t5, which ends every text itself", False),
    ],
)
def test_files_that_disagree_are_known_to(name, agreed):
    endings = make_batcher(KINDS[name]).text.endings
    assert endings.agreed is agreed
    assert (len(endings.candidates) == 1) is agreed


def test_an_end_that_is_plain_text_is_several_tokens_and_then_what_stops_generation():
    """`</s>` in a template whose tokenizer does not know it."""
    kind = Kind(turn="[{role}] {text}</s>", flagged=("<|eos|>",), eos="<|eos|>", stops=("<|eos|>",), end="")
    batcher = make_batcher(kind)
    stop = batcher.tokenizer.convert_tokens_to_ids("<|eos|>")
    (target,) = batcher.targets([Sample(Image.new("RGB", (32, 32)), "which ?", "red")])
    assert batcher.tokenizer.decode(target).strip() == "red</s><|eos|>"
    assert target[-1] == stop
    assert batcher.stopping()["stop_strings"] == ["</s>"]
    ran_on = batcher.tokenizer.encode("red</s> and more")
    assert batcher.text.read([target.tolist(), ran_on]) == ["red", "red"]


def test_a_template_for_questions_only_says_nothing_of_answers():
    processor = make_processor(KINDS["mistral"])
    processor.chat_template = "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}q"
    stop = processor.tokenizer.eos_token_id
    endings = find_endings(processor, [stop])
    assert [ending.ids for ending in endings.candidates] == [(stop,)]
    assert endings.agreed


def test_a_template_that_does_not_repeat_the_answer_says_nothing_of_its_end():
    processor = make_processor(KINDS["mistral"])
    processor.chat_template = "{% for message in messages %}[{{ message['role'] }}]{% endfor %}</s>"
    assert [ending.source for ending in find_endings(processor, []).candidates] == [
        "the tokenizer's end of text"
    ]


def test_the_end_may_be_told():
    kind = KINDS["no chat template, the tokenizer and the config at odds"]
    known = make_batcher(kind)
    other = next(e for e in known.text.endings.candidates if e.text == "<a>")
    told = Batcher(known.processor, hf.LlavaConfig(), end=other)
    assert told.text.end == Ending(other.ids, "<a>", other.source)
