"""Captions split into tokens, as COCO's evaluation does where Java and pycocoevalcap are there, and without them."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ressa.errors import RunError

JAR = "stanford-corenlp-3.4.1.jar"
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


def missing_for_ptb() -> str | None:
    """What the PTB tokenizer lacks here, as a sentence says it; None where it can run."""
    if not have_coco_tools():
        return "pycocoevalcap is not installed (pip install 'ressa[captions]')"
    return None if have_java() else "Java was not found (install a Java runtime)"


def have_java() -> bool:
    return shutil.which("java") is not None


def have_coco_tools() -> bool:
    return find_spec("pycocoevalcap") is not None


def coco_tools() -> Path:
    """The folder of the installed pycocoevalcap, which brings the Java programs."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise RunError("pycocoevalcap is not installed: pip install 'ressa[captions]'.")
    return Path(spec.submodule_search_locations[0])


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Stanford's PTB tokens in lower case without punctuation, joined by spaces (COCO's protocol).

    The jar comes with pycocoevalcap, whose own wrapper is not used: it writes into the installed package. Raises
    RunError where Java fails.
    """
    jar = coco_tools() / "tokenizer" / JAR
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
    return [" ".join(word for word in line.split() if word not in PUNCTUATION) for line in tokenized]


def regex_tokenize(captions: Sequence[str]) -> list[str]:
    """Words and numbers in lower case without punctuation, joined by spaces; "isn't" becomes "is n't"."""
    return [" ".join(_WORD.findall(_CLITIC.sub(r" \1", caption.lower()))) for caption in captions]


_CLITIC = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))\b")
_WORD = re.compile(r"n't|'\w+|\w+(?:[-.,/]\w+)*")
