"""How each task asks: its prompt, how long an answer may be, how it is searched for, and by which metric it is scored.

A protocol is what one line of work does for all tasks:

- `ressa`: BLIP-2's prompt for questions, one of ours for captions, greedy, and every data set's official metric.
- `instructblip`: InstructBLIP's evaluation in LAVIS (`projects/instructblip`, appendix E of arXiv 2305.06500).
- `llava`: LLaVA-1.5's (`docs/Evaluation.md`, `llava/eval`).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ressa.data.prompts import CAPTION, CLASS, QUESTION
from ressa.errors import UsageError
from ressa.evaluation.decoding import Decoding, Tokens
from ressa.task_names import PROTOCOLS


@dataclass(frozen=True)
class Settings:
    """How one task asks.

    prompt: the question goes where its `{}` is, options where `{options}` is. tokens: an answer's length, at least
    and at most, the end token included. beams: 1 is greedy. length_penalty: of beams, whose log-probability is divided
    by length ** penalty. repetition_penalty: of tokens that the answer has already. None: the model's own.

    question_text: whether questions are asked `whole` or as LAVIS's `blip_question` has them.

    metric: whose form of it, where a task has several. caption_metrics: which ones captions get. context: what is put
    in front of the prompt where something is told beside the question, which goes where its `{}` is. options: how they
    are listed, in `lines` (A. cat) or `inline` ((a) cat). choose: by the likelihood of the option's `text` or of its
    `letter`, or by the letter in a `generated` answer. circular: a question counts as right only if it is right with
    its options in every rotation. rerank: how many candidates an image-text matching head looks at.
    """

    prompt: str
    tokens: Tokens = (1, 10)
    beams: int = 1
    length_penalty: float | None = None
    repetition_penalty: float | None = None
    question_text: str = "whole"
    metric: str = "official"
    caption_metrics: tuple[str, ...] = ("cider", "bleu")
    context: str = "Context: {} "
    options: str = "inline"
    choose: str = "text"
    circular: bool = False
    rerank: int = 128

    def generation(self) -> dict[str, Any]:
        """What `generation.generate` is told."""
        least, most = self.tokens
        return {
            "beams": self.beams,
            "min_new_tokens": least - 1,
            "max_new_tokens": most,
            "length_penalty": self.length_penalty,
            "repetition_penalty": self.repetition_penalty,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}


QUESTIONS = ("vqa", "okvqa", "gqa", "aokvqa", "textvqa", "vizwiz", "pope")
CHOICES = ("aokvqa-choice", "scienceqa", "mmbench")
CAPTIONS = ("caption", "nocaps", "flickr30k", "retrieval")

_CHOICE = "Question: {} Options: {options}. Short answer:"
_LETTER = "{}\n{options}\nAnswer with the option's letter from the given choices directly."
_UNANSWERABLE = (
    "{}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase."
)


def _ressa() -> dict[str, Settings]:
    found = dict.fromkeys(QUESTIONS, Settings(QUESTION))
    found |= dict.fromkeys(CHOICES, Settings(_CHOICE))
    return found | dict.fromkeys(CAPTIONS, Settings(CAPTION, (1, 50)))


def _instructblip() -> dict[str, Settings]:
    answers = Settings(
        "Question: {} Short answer:", beams=5, length_penalty=-1.0, question_text="blip", metric="lavis"
    )
    found = dict.fromkeys(QUESTIONS, answers)
    found |= dict.fromkeys(CHOICES, replace(answers, prompt=_CHOICE))
    found["scienceqa"] = replace(answers, prompt="Question: {} Options: {options}. Answer:")
    captions = Settings("A short image caption.", (10, 80), beams=5, length_penalty=1.0)
    return found | dict.fromkeys(CAPTIONS, captions)


def _llava() -> dict[str, Settings]:
    answers = Settings("{}\nAnswer the question using a single word or phrase.", (1, 128), metric="llava")
    found = dict.fromkeys(QUESTIONS, answers)
    found["vizwiz"] = replace(answers, prompt=_UNANSWERABLE)
    found |= dict.fromkeys(
        CHOICES, replace(answers, prompt=_LETTER, context="{}\n", options="lines", choose="generated")
    )
    captions = Settings("Provide a one-sentence caption for the provided image.", (1, 64))
    return found | dict.fromkeys(CAPTIONS, captions)


ZEROSHOT = "zeroshot"

_MADE = {"ressa": _ressa, "instructblip": _instructblip, "llava": _llava}


def settings_of(
    task: str,
    protocol: str = "ressa",
    *,
    question: str | None = None,
    caption: str | None = None,
    class_prompt: str | None = None,
    decoding: Decoding | None = None,
    **own: Any,
) -> Settings:
    """The settings of a task by a protocol; question, caption, class_prompt: other prompts; decoding: other beams,
    lengths and penalties; own: other values of `Settings`' fields.

    What is None stays as the protocol has it. Raises UsageError for an unknown protocol, or a question's prompt without
    one `{}`.
    """
    if protocol not in _MADE:
        raise UsageError(f"There is no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}.")
    if question is not None and question.count("{}") != 1:
        raise UsageError(f"the question prompt {question!r} needs one {{}} where the question goes.")
    if task == ZEROSHOT:  # the same by every protocol
        return Settings(class_prompt or CLASS)
    asked = decoding or Decoding()
    given = {"beams": asked.beams, "repetition_penalty": asked.repetition_penalty, **own}
    if task in CAPTIONS:
        given |= {"prompt": caption, "tokens": asked.caption_tokens}
        given["length_penalty"] = asked.caption_length_penalty
    else:
        given |= {"prompt": question if task in QUESTIONS else None, "tokens": asked.answer_tokens}
        given["length_penalty"] = asked.answer_length_penalty
    return replace(_MADE[protocol]()[task], **{name: x for name, x in given.items() if x is not None})
