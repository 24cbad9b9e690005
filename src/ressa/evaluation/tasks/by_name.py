"""The tasks by name: what each asks about, and by whose rules it is scored. docs/evaluate.md has them as a table."""

from ressa.errors import UsageError
from ressa.evaluation.metrics import exact_match as right
from ressa.evaluation.metrics import vqa_accuracy as vqa
from ressa.evaluation.tasks.base import Task
from ressa.evaluation.tasks.captions import Captions
from ressa.evaluation.tasks.choices import AOKVQAChoices, Choices, MMBench
from ressa.evaluation.tasks.questions import AnswerableQuestions, Questions, YesOrNo, right_or_wrong
from ressa.evaluation.tasks.retrieval import Retrieval
from ressa.evaluation.tasks.zeroshot import ZeroShot
from ressa.task_names import EVERY_TASK

_VQA = {
    "official": vqa.vqa_accuracy,
    "lavis": vqa.lavis_vqa_accuracy,
    "llava": vqa.llava_vqa_accuracy,
    "normalised": vqa.normalised_vqa_accuracy,
}
_GQA = {
    "official": right.exact_match,
    "lavis": right.lavis_exact_match,
    "llava": right.llava_exact_match,
    "normalised": right.normalised_match,
}

_TASKS: tuple[Task, ...] = (
    Questions("vqa", "VQAv2", _VQA),
    Questions("okvqa", "OK-VQA", _VQA),
    Questions("gqa", "GQA", {name: right_or_wrong(match) for name, match in _GQA.items()}),
    Captions("caption", "Captioning images"),
    Retrieval("retrieval", "Scoring image-caption pairs"),
    Questions(
        "aokvqa",
        "A-OKVQA",
        {"official": vqa.direct_answer_accuracy, "normalised": vqa.normalised_direct_answer_accuracy},
    ),
    AOKVQAChoices("aokvqa-choice", "Choosing A-OKVQA answers", data="aokvqa"),
    Questions(
        "textvqa", "TextVQA", {**_VQA, "official": vqa.textvqa_accuracy, "llava": vqa.textvqa_accuracy}
    ),
    AnswerableQuestions(
        "vizwiz",
        "VizWiz",
        {**_VQA, "official": vqa.vizwiz_accuracy, "llava": vqa.llava_vizwiz_accuracy},
    ),
    Choices("scienceqa", "Choosing ScienceQA answers"),
    YesOrNo("pope", "POPE", {}),
    MMBench("mmbench", "Choosing MMBench answers"),
    Captions("nocaps", "Captioning NoCaps"),
    Captions("flickr30k", "Captioning Flickr30k"),
    ZeroShot("zeroshot", "Choosing classes"),
)

TASKS_BY_NAME: dict[str, Task] = {task.name: task for task in _TASKS}

assert tuple(TASKS_BY_NAME) == EVERY_TASK


def task_named(name: str) -> Task:
    """The task of a name. Raises UsageError for an unknown one."""
    if name not in TASKS_BY_NAME:
        raise UsageError(f"task {name!r} is unknown: choose some of {', '.join(EVERY_TASK)}.")
    return TASKS_BY_NAME[name]
