"""What does the command line take at LLaVA-1.5-7B's size, from start to result?

    python benchmarks/prune_command.py --work /fast/disk      the table, and benchmarks/results/prune_command.json
    python benchmarks/prune_command.py --smoke                tiny, on any machine

A checkpoint of random weights in bf16 is made on disk, with the processor of the embedded LLaVA at the size of its
images. Then, each in a process of its own: `ressa prune` to 2:4 (Wanda, the language tower, 128 embedded samples), the
same with `--stream`, and `ressa inspect`. The floor is a copy of the weights, read and written once; the target for
pruning is that and 60 s. Both prunings must make the same masks.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from ressa.embedded import model_folder
from ressa.files import read_json, write_json
from ressa.provenance import versions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/prune_command.json)")
    parser.add_argument("--work", type=Path, help="a folder with room for three checkpoints")
    parser.add_argument("--layers", type=int, default=32, help="blocks of the language tower")
    parser.add_argument("--method", default="wanda")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that everything runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        output = options.output or Path(__file__).parent / "results/prune_command.json"
        for report in measure(Path(folder), options):
            write_json(output, {"versions": versions(), **report})


def measure(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is known so far, after each command."""
    source = folder / "dense"
    make_checkpoint(source, options.layers, options.smoke)
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    report: dict[str, Any] = {"bytes": size}
    started = time.perf_counter()
    shutil.copytree(source, folder / "copy")
    report["copy_seconds"] = round(time.perf_counter() - started, 1)
    shutil.rmtree(folder / "copy")
    print(f"{size / 2**30:.1f} GiB; copied in {report['copy_seconds']} s", flush=True)
    prune = ["prune", source, "--vision", "dense", "--pattern", "2:4", "--method", options.method]
    prune += ["--samples", 4 if options.smoke else 128]
    for name, more in {"prune": ["--no-stream"], "prune --stream": ["--stream"]}.items():
        output = folder / name.replace(" ", "")
        report[name] = run([*prune, "-o", output, *more])
        report[name]["spent"] = read_json(output / "ressa.json")["spent"]
        print(name, json.dumps(report[name]), flush=True)
        yield report
    masks = [(folder / name / "ressa_masks.safetensors").read_bytes() for name in ("prune", "prune--stream")]
    assert masks[0] == masks[1], "streaming made other masks"
    report["inspect"] = run(["inspect", folder / "prune"])
    print("inspect", json.dumps(report["inspect"]), flush=True)
    yield report


def make_checkpoint(folder: Path, layers: int, smoke: bool) -> None:
    embedded = model_folder("embedded-llava")
    config = hf.LlavaConfig.from_pretrained(embedded)
    pixels = 112 if smoke else 336
    vision = {"image_size": pixels, "patch_size": 14}
    text = {"num_hidden_layers": 2 if smoke else layers}
    if not smoke:
        vision |= {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        }
        text |= {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
        text |= {"num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32064}
        text |= {"max_position_embeddings": 4096}
    config = hf.LlavaConfig(
        **{
            **config.to_dict(),
            "vision_config": {**config.vision_config.to_dict(), **vision},
            "text_config": {**config.text_config.to_dict(), **text},
            "image_seq_length": (pixels // 14) ** 2,
        }
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = hf.LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for path in embedded.glob("*token*"):
        shutil.copy(path, folder)
    processor = read_json(embedded / "processor_config.json")
    processor["image_processor"] |= {"size": {"height": pixels, "width": pixels}}
    processor["image_processor"] |= {"crop_size": {"height": pixels, "width": pixels}}
    processor["patch_size"] = 14
    write_json(folder / "processor_config.json", processor)


def run(arguments: list[Any]) -> dict[str, Any]:
    """One command line: wall-clock seconds, and the most memory on the host and, where there is one, the GPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    started = time.perf_counter()
    command = [sys.executable, "-m", "ressa", *map(str, arguments)]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    used, idle = [], gpu_memory()
    watcher = threading.Thread(target=watch, args=(process, used), daemon=True)
    watcher.start()
    if process.wait():
        raise SystemExit(f"ressa {arguments[0]} failed")
    seconds = time.perf_counter() - started
    watcher.join()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "seconds": round(seconds, 1),
        "host_peak_gib": round(peak / 2**20, 2) if peak > before else f"at most {before / 2**20:.2f}",
        "gpu_peak_gib": round((max(used, default=idle) - idle) / 2**10, 2),
    }


def watch(process: subprocess.Popen, used: list[int]) -> None:
    """What is in use of the GPU's memory while a process runs, four times a second."""
    while process.poll() is None:
        used.append(gpu_memory())
        time.sleep(0.25)


def gpu_memory() -> int:
    """MiB in use on the first GPU."""
    if not torch.cuda.is_available():
        return 0
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


if __name__ == "__main__":
    main()
