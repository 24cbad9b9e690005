"""CIDEr-D (Vedantam et al. 2015) with COCO's scorer, and the tokenizers it can stand on."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pycocoevalcap.tokenizer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

from ressa.errors import RunError, UsageError

OFFICIAL = "CIDEr-D"
WITHOUT_JAVA = "CIDEr-D (regex tokenizer)"

Tokenizer = Callable[[Sequence[str]], list[str]]


class CaptionScore(NamedTuple):
    """`score`: mean CIDEr-D over images, ×100 as papers print it (identical captions can reach 1000)."""

    score: float
    metric: str


def have_java() -> bool:
    return shutil.which("java") is not None


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScore:
    """CIDEr-D of one caption an image against its reference captions.

    With Java the captions are split by the Stanford PTB tokenizer, as COCO's evaluation does; without it by
    `regex_tokenize`, and the metric is then named differently, for the figures are not quite the same. Word
    weights come from the references given, so at least two images are needed (UsageError).
    """
    if len(predictions) < 2:
        raise UsageError("CIDEr-D weighs words by how few images they fit: score at least two images.")
    tokenize, metric = (ptb_tokenize, OFFICIAL) if have_java() else (regex_tokenize, WITHOUT_JAVA)
    lengths = [len(captions) for captions in references]
    tokens = tokenize([*predictions, *(caption for captions in references for caption in captions)])
    said, rest = tokens[: len(predictions)], iter(tokens[len(predictions) :])
    result = {image: [caption] for image, caption in enumerate(said)}
    truth = {image: [next(rest) for _ in range(length)] for image, length in enumerate(lengths)}
    mean, _ = Cider().compute_score(truth, result)
    return CaptionScore(100 * float(mean), metric)


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Stanford's PTB tokens in lower case without punctuation, joined by spaces (COCO's protocol).

    The jar comes with pycocoevalcap, whose own wrapper is not used: it writes into the installed package.
    """
    jar = Path(pycocoevalcap.tokenizer.__path__[0]) / STANFORD_CORENLP_3_4_1_JAR
    # One caption a line: nothing inside a caption may look like the end of a line to Java.
    lines = "\n".join(" ".join(caption.split()) for caption in captions) + "\n"
    command = [
        "java",
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    command += ["-encoding", "UTF-8"]
    run = subprocess.run(command, input=lines.encode(), capture_output=True, check=False)
    tokenized = run.stdout.decode(errors="replace").split("\n")[: len(captions)]
    if run.returncode != 0 or len(tokenized) != len(captions):
        reason = " ".join(run.stderr.decode(errors="replace").split())[-300:]
        raise RunError(f"Java could not run the PTB tokenizer ({reason}): repair Java or remove it.")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in tokenized]


def regex_tokenize(captions: Sequence[str]) -> list[str]:
    """Words and numbers in lower case without punctuation, joined by spaces; "isn't" becomes "is n't"."""
    return [" ".join(_WORD.findall(_CLITIC.sub(r" \1", caption.lower()))) for caption in captions]


_CLITIC = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))\b")
_WORD = re.compile(r"n't|'\w+|\w+(?:[-.,/]\w+)*")
