"""Perplexity of models on real English text: what fine-tuning, pruning and repair make a language model forget.

    python benchmarks/perplexity.py runs/pretrained runs/pruned runs/repaired --text book.txt -o perplexity.json
    apt-get download anarchism && dpkg -x anarchism_*.deb text       # a book that a Debian package ships, as HTML
    python benchmarks/perplexity.py MODEL… --text text/usr/share/doc/anarchism/html

A folder is read file by file in the order of the names, markup taken away. A model is a VLM, or a plain language model
(the tower before it saw a picture).
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ressa.checkpoint import load
from ressa.data.plain_text import read_text
from ressa.device import find_device
from ressa.evaluation.perplexity import perplexity
from ressa.files import write_json
from ressa.provenance import versions
from ressa.report import Table


def language_model(folder: str, device: torch.device) -> tuple[Any, Any]:
    """A VLM, or a language model alone, with its tokenizer; bf16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = AutoConfig.from_pretrained(folder, local_files_only=True) if Path(folder).is_dir() else None
    if config is not None and type(config) in AutoModelForCausalLM._model_mapping:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        return model, AutoTokenizer.from_pretrained(folder)
    vlm = load(folder, dtype=dtype, device=device)
    return vlm.model, vlm.processor.tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument(
        "--text", type=Path, required=True, help="a text file, or a folder of HTML or text files"
    )
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    device, text = find_device(options.device), read_text(options.text)
    found = {}
    for name in options.models:
        model, tokenizer = language_model(name, device)
        found[name] = perplexity(
            model,
            tokenizer,
            text,
            window=options.window,
            tokens=options.tokens,
            batch_size=options.batch_size,
        )
        del model
    rows = tuple(
        (name, f"{value:.2f}", f"{value / found[options.models[0]]:.3f} ×") for name, value in found.items()
    )
    print(Table("perplexity", ("model", "perplexity", "of the first"), rows).markdown())
    if options.output:
        settings = {key: getattr(options, key) for key in ("window", "tokens")}
        digest = hashlib.sha256(text.encode()).hexdigest()
        write_json(
            options.output, {"perplexity": found, **settings, "text_sha256": digest, "versions": versions()}
        )


if __name__ == "__main__":
    main()
