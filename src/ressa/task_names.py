"""What an evaluation can be asked, by name. Importing this costs nothing."""

from typing import Literal, get_args

TITLES = {
    "vqa": "VQA",
    "okvqa": "OK-VQA",
    "gqa": "GQA",
    "caption": "captions",
    "retrieval": "retrieval",
    "aokvqa": "A-OKVQA",
    "aokvqa-choice": "A-OKVQA, choices",
    "textvqa": "TextVQA",
    "vizwiz": "VizWiz",
    "scienceqa": "ScienceQA",
    "pope": "POPE",
    "mmbench": "MMBench",
    "nocaps": "NoCaps",
    "flickr30k": "Flickr30k",
    "zeroshot": "zero-shot classes",
}
"""Task → what a table calls it."""

EVERY_TASK = tuple(TITLES)

TASKS = ("vqa", "okvqa", "gqa", "caption", "retrieval")
"""What is scored where no task is named: the tasks of the embedded scenes."""

ProtocolName = Literal["ressa", "instructblip", "llava"]
MetricForm = Literal["official", "lavis", "llava", "normalised"]
Choosing = Literal["text", "letter", "generated"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
METRICS: tuple[str, ...] = get_args(MetricForm)
CAPTION_METRICS = ("cider", "bleu", "meteor", "spice")
