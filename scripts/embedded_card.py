"""Score an embedded model on `test` and `novel`, and write its evaluation, training figure and model card.

    python scripts/embedded_card.py embedded-llava

Each part of the evaluation is kept as soon as it is done: a killed run goes on where it was.
"""

import argparse
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from ressa.checkpoint import load
from ressa.embedded import MODELS, dataset_folder, model_folder
from ressa.embedded.baselines import blind_scores, constant_score
from ressa.evaluation import evaluate
from ressa.files import write_json, write_text

PARTS = {
    "test": {"tasks": ("vqa", "okvqa", "gqa", "caption"), "split": "test"},
    "test-retrieval": {"tasks": ("retrieval",), "split": "test", "pool": 200, "limit": 200},
    "novel": {"tasks": ("vqa", "okvqa", "gqa", "caption"), "split": "novel"},
}


def score(name: str) -> dict:
    """All parts of the evaluation, from `evaluation.json` where they are there already."""
    file = model_folder(name) / "evaluation.json"
    done = json.loads(file.read_text()) if file.exists() else {}
    vlm = load(name, dtype=torch.bfloat16)
    for part, options in PARTS.items():
        if part not in done:
            done[part] = evaluate(vlm, dataset_folder(), batch_size=64, **options)
            write_json(file, done)
    if "baselines" not in done:
        done["baselines"] = {"constant": constant_score("test"), "blind": blind_scores("test")}
        write_json(file, done)
    return done


def draw(name: str) -> None:
    """training.png: validation accuracy by question kind over the steps of stage 2."""
    lines = (model_folder(name) / "training_log.jsonl").read_text().splitlines()
    points = [record for record in map(json.loads, lines) if record.get("stage") == "val"]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for kind in points[0]["kinds"]:
        axes.plot([p["step"] for p in points], [p["kinds"][kind] for p in points], marker=".", label=kind)
    axes.set(xlabel="step", ylabel="answers right on held-out scenes, %", title=f"{name}: whole VLM")
    axes.legend(ncols=2, fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(model_folder(name) / "training.png", dpi=120)


def card(name: str, scores: dict) -> str:
    """The model card, in Markdown."""
    training = json.loads((model_folder(name) / "training.json").read_text())
    test, novel = scores["test"]["tasks"], scores["novel"]["tasks"]
    rows = []
    for task in ("vqa", "okvqa", "gqa"):
        rows.append(f"| {task} | {test[task]['score']:.1f} | {novel[task]['score']:.1f} |")
        rows += [
            f"| – {kind} | {entry['score']:.1f} | {novel[task]['kinds'][kind]['score']:.1f} |"
            for kind, entry in test[task]["kinds"].items()
            if len(test[task]["kinds"]) > 1
        ]
    caption, other = test["caption"], novel["caption"]
    rows.append(f"| caption, {caption['metric']} | {caption['score']:.1f} | {other['score']:.1f} |")
    rows.append(f"| caption, object recall | {caption['recall']:.1f} | {other['recall']:.1f} |")
    retrieval = scores["test-retrieval"]["tasks"]["retrieval"]
    rows += [f"| retrieval among 200, {key} | {retrieval[key]:.1f} | – |" for key in ("TR@1", "IR@1")]
    blind = scores["baselines"]["blind"]
    return CARD.format(
        name=name,
        architecture={"embedded": "InstructBLIP", "embedded-llava": "LLaVA"}[name],
        rows="\n".join(rows),
        constant=scores["baselines"]["constant"],
        blind=blind["all"],
        device=training["versions"].get("device", "CPU"),
        **{key: training["recipe"][key] for key in ("seed", "scenes", "vision_steps", "steps")},
    )


CARD = """---
license: cc-by-sa-4.0
tags: [{architecture}, synthetic, tiny]
---
# {name}

A vision-language model in the style of {architecture}, of under 10 M parameters. It ships with ressa, so that pruning
and repair can be tried, tested and measured without a download, and was trained from scratch on drawn scenes of
OpenMoji objects.

| task (%) | test (2,000 scenes) | novel (500 scenes, object pairs never seen together) |
|---|---|---|
{rows}

The best constant answer scores {constant:.1f} %, the best question-only (blind) guess {blind:.1f} %.

- **Data**: {scenes} scenes of the `train` split (seed {seed}), drawn by `ressa.embedded`: 1–5 of 209 objects on a
  coloured, patterned canvas of 112 px. Graphics: OpenMoji 17 (https://openmoji.org), CC BY-SA 4.0.
- **Training**: `python scripts/train_embedded.py {name} --output … --work … --seed {seed} --scenes {scenes}
  --vision-steps {vision_steps} --steps {steps}` on one {device}: the vision tower first names what each patch shows,
  then the whole VLM learns questions and captions.
  `training.json` holds the recipe and versions, `training_log.jsonl` the log, `training.png` the curves.
- **Evaluation**: `python scripts/embedded_card.py {name}`; `evaluation.json` holds every number.
- **What it cannot do**: anything but such scenes. It knows 209 objects, about 550 words and nothing of photographs; it
  answers any other question with one of the answers it knows.
- **Licence**: CC BY-SA 4.0, like the graphics it learned from.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=MODELS)
    name = parser.parse_args().name
    scores = score(name)
    draw(name)
    write_text(model_folder(name) / "README.md", card(name, scores))


if __name__ == "__main__":
    main()
