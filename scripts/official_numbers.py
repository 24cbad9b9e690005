"""What the official evaluation tools say to the nasty answers of tests/evaluation/nasty.py.

    python scripts/official_numbers.py TOOLS > tests/evaluation/official.json

TOOLS is a folder with one file of each tool, which are not part of ressa (the commits are in the result):

    vqa.py        github.com/GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py
    lavis.py      github.com/salesforce/LAVIS, lavis/common/vqa_tools/vqa_eval.py
    retrieval.py  github.com/salesforce/LAVIS, lavis/tasks/retrieval.py
    textvqa.py    github.com/facebookresearch/mmf, mmf/utils/m4c_evaluators.py
    vizwiz.py     the API on vizwiz.org/tasks-and-datasets/vqa, vqaEvaluation/vqaEval.py
    aokvqa.py     github.com/allenai/aokvqa, evaluation/eval_predictions.py
    pope.py       github.com/AoiDragon/POPE, evaluate.py
    sqa.py        github.com/haotian-liu/LLaVA, llava/eval/eval_science_qa.py

pycocoevalcap, scikit-learn, pandas and Java have to be there. Accuracies are stored in thirtieths: 30 is 1.0.
"""

import ast
import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "evaluation"))

import nasty
import numpy as np

MADE = (
    "python scripts/official_numbers.py, with GT-Vision-Lab/VQA a013f00, salesforce/LAVIS 506965b, "
    "facebookresearch/mmf b0ffc7f, allenai/aokvqa 83786de, AoiDragon/POPE 08d957b, haotian-liu/LLaVA c121f04, "
    "Qing Li's vqaEval.py of VizWiz' API, pycocoevalcap 1.2"
)


Cases = list[tuple[str, list[str]]]


def source(tools: Path, name: str) -> str:
    text = (tools / f"{name}.py").read_text()
    return re.sub(r"^(\s*)print (?!\()(.*)$", r"\1print(\2)", text, flags=re.M)  # Python 2's


def names(tools: Path, name: str, *wanted: str, **given: Any) -> SimpleNamespace:
    """Some functions and classes of a tool, without running the rest of it."""
    tree = ast.parse(source(tools, name))
    tree.body = [node for node in tree.body if getattr(node, "name", None) in wanted]
    scope: dict[str, Any] = {"re": re, "np": np, "json": json, **given}
    exec(compile(tree, name, "exec"), scope)
    return SimpleNamespace(**{each: scope[each] for each in wanted})


def thirtieths(values: list[float]) -> list[int]:
    found = [round(30 * value) for value in values]
    assert max(abs(value - each / 30) for value, each in zip(values, found, strict=True)) < 1e-9
    return found


def processed(tools: Path) -> Cases:
    """The answers as LLaVA submits them: EvalAI's processor on the predictions."""
    processor = names(tools, "textvqa", "EvalAIAnswerProcessor").EvalAIAnswerProcessor()
    return [(processor(prediction), given) for prediction, given in nasty.answers()]


def by_vqa_tool(tools: Path, name: str, cases: Cases) -> list[float]:
    """Each answer's accuracy by the `evaluate` of VQAv2's or LAVIS's tool."""
    qa = {}
    said = {}
    for number, (prediction, given) in enumerate(cases):
        people = [{"answer": answer, "answer_id": place + 1} for place, answer in enumerate(given)]
        qa[number] = {"answers": people, "question_type": "what", "answer_type": "other"}
        said[number] = {"answer": prediction}
    data = SimpleNamespace(qa=qa, getQuesIds=lambda: list(qa))
    tool = names(tools, name, "VQAEval", sys=sys).VQAEval(data, SimpleNamespace(qa=said), n=12)
    with contextlib.redirect_stdout(io.StringIO()):
        tool.evaluate()
    return [tool.evalQA[number] / 100 for number in qa]


def by_lavis_gqa(tools: Path) -> list[float]:
    """LAVIS's GQA task: the prediction goes through the tool's two functions, the answer stays."""
    data = SimpleNamespace(getQuesIds=list)
    tool = names(tools, "lavis", "VQAEval", sys=sys).VQAEval(data, None)
    found = []
    for prediction, given in nasty.answers():
        said = tool.processDigitArticle(tool.processPunctuation(prediction))
        found.append(float(said == given[0]))
    return found


def by_textvqa(tools: Path) -> list[float]:
    scope = names(tools, "textvqa", "EvalAIAnswerProcessor", "TextVQAAccuracyEvaluator")
    tool = scope.TextVQAAccuracyEvaluator()
    return [tool.eval_pred_list([{"pred_answer": p, "gt_answers": g}]) for p, g in nasty.answers()]


def by_vizwiz(tools: Path, cases: Cases) -> tuple[list[float], dict[str, float]]:
    """Each answer's accuracy, and what the tool says of the confidences that a question can be answered."""
    from sklearn.metrics import average_precision_score, f1_score

    labels, confidence = nasty.answerable(len(cases))
    asked, said = {}, {}
    for number, (prediction, given) in enumerate(cases):
        people = [{"answer": answer} for answer in given]
        asked[number] = {"answers": people, "answer_type": "other", "answerable": labels[number]}
        said[number] = {"image": number, "answer": prediction, "answerable": confidence[number]}
    no_captions = SimpleNamespace(evaluate=lambda: None, eval={})  # it also scores answers as captions
    tool = names(
        tools,
        "vizwiz",
        "VQAEval",
        average_precision_score=average_precision_score,
        f1_score=f1_score,
        sys=sys,
        COCOEvalCap=lambda *_: no_captions,
    ).VQAEval(
        SimpleNamespace(imgToQA=asked, getImgs=lambda: list(asked)), SimpleNamespace(imgToQA=said), n=12
    )
    with contextlib.redirect_stdout(io.StringIO()):
        tool.evaluate()
        tool.evaluate_unanswerability()
    return [tool.evalQA[number] / 100 for number in asked], tool.unanswerability


def by_aokvqa(tools: Path) -> list[float]:
    tool = names(tools, "aokvqa", "eval_aokvqa").eval_aokvqa
    found = []
    for prediction, given in nasty.answers():
        entry = {"q": {"choices": [], "direct_answers": given, "difficult_direct_answer": False}}
        found.append(tool(entry, {"q": prediction}) / 100)
    return found


def by_aokvqa_choices(tools: Path) -> list[int]:
    tool = names(tools, "aokvqa", "eval_aokvqa").eval_aokvqa
    found = []
    for chosen, options, right in nasty.chosen_options():
        entry = {"q": {"choices": options, "direct_answers": [], "correct_choice_idx": right}}
        found.append(round(tool(entry, {"q": options[chosen]}, multiple_choice=True) / 100))
    return found


def by_pope(tools: Path) -> dict[str, list[float]]:
    """accuracy, precision, recall, F1 and yes ratio of each category, as the script prints them."""
    found = {}
    cases = nasty.yes_no_answers()
    for category in ("random", "popular", "adversarial"):
        chosen = [(text, right) for text, right, kind in cases if kind == category]
        with tempfile.TemporaryDirectory() as folder:
            answers, labels = Path(folder, "answers"), Path(folder, "labels")
            answers.write_text("\n".join(json.dumps({"answer": text}) for text, _ in chosen))
            labels.write_text(
                "\n".join(json.dumps({"label": "yes" if right else "no"}) for _, right in chosen)
            )
            text = source(tools, "pope").replace("ans_file = ''", f"ans_file = {str(answers)!r}")
            text = text.replace("label_file = ''", f"label_file = {str(labels)!r}")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(text, "pope", "exec"), {})
        found[category] = [float(each) for each in re.findall(r": ([\d.]+)", printed.getvalue())]
    return found


def by_sqa(tools: Path) -> list[int]:
    """Which option LLaVA's script reads from each answer; −1 where it reads none."""
    cases = nasty.choice_answers()
    text = source(tools, "sqa")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        problems = {
            str(n): {"choices": options, "answer": right} for n, (_, options, right) in enumerate(cases)
        }
        (base / "problems.json").write_text(json.dumps(problems))
        (base / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
        said = [
            {"question_id": str(n), "text": text, "prompt": "<image>"} for n, (text, _, _) in enumerate(cases)
        ]
        (base / "said").write_text("\n".join(map(json.dumps, said)))
        argv = ["sqa", "--base-dir", folder, "--result-file", str(base / "said")]
        argv += ["--output-file", str(base / "out"), "--output-result", str(base / "result")]
        before, sys.argv = sys.argv, argv
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, "sqa", "exec"), {"__name__": "__main__"})
        finally:
            sys.argv = before
        results = json.loads((base / "result").read_text())["results"]
    return [results[str(number)] for number in range(len(cases))]


def by_coco() -> dict[str, Any]:
    """CIDEr-D of each image and BLEU-1 to -4 on tokens; CIDEr-D, BLEU-4 and, of the first images, METEOR on captions
    as people write them, behind the PTB tokenizer."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    said, truth = nasty.captions()
    given = dict(enumerate(truth)), {row: [each] for row, each in enumerate(said)}
    _, cider = Cider().compute_score(*given)
    tokens = {
        "cider": [float(f"{each:.9g}") for each in cider],
        "bleu": Bleu(4).compute_score(*given, verbose=0)[0],
    }
    said, truth = nasty.raw_captions()
    tokenizer = PTBTokenizer()
    split = [
        tokenizer.tokenize({row: [{"caption": each} for each in group] for row, group in enumerate(groups)})
        for groups in (truth, [[each] for each in said])
    ]
    first = [{row: each[row] for row in range(nasty.METEOR)} for each in split]
    raw = {
        "cider": float(Cider().compute_score(*split)[0]),
        "bleu": Bleu(4).compute_score(*split, verbose=0)[0][3],
        "meteor": Meteor().compute_score(*first)[0],
    }
    return {"tokens": tokens, "raw": raw}


def by_retrieval(tools: Path) -> list[float]:
    """TR@1, 5, 10 and IR@1, 5, 10 by LAVIS's `_report_metrics`."""
    scores = nasty.pair_scores()
    images, captions = scores.shape
    each = captions // images
    tree = ast.parse(source(tools, "retrieval"))
    method = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "_report_metrics"
    )
    method.decorator_list = []
    registry = SimpleNamespace(get_path=lambda name: tempfile.gettempdir())
    scope: dict[str, Any] = {"np": np, "json": json, "registry": registry, "os": __import__("os")}
    exec(compile(ast.Module([method], []), "retrieval", "exec"), scope)
    own = {image: list(range(image * each, (image + 1) * each)) for image in range(images)}
    found = scope["_report_metrics"](scores, scores.T, {c: c // each for c in range(captions)}, own)
    return [found[f"{way}_r{k}"] for way in ("txt", "img") for k in (1, 5, 10)]


def main() -> None:
    tools = Path(sys.argv[1])
    cases, submitted = nasty.answers(), processed(tools)
    vizwiz, unanswerability = by_vizwiz(tools, cases)
    numbers = {
        "made": MADE,
        "vqa": thirtieths(by_vqa_tool(tools, "vqa", cases)),
        "llava_vqa": thirtieths(by_vqa_tool(tools, "vqa", submitted)),
        "lavis": thirtieths(by_vqa_tool(tools, "lavis", cases)),
        "lavis_gqa": thirtieths(by_lavis_gqa(tools)),
        "textvqa": thirtieths(by_textvqa(tools)),
        "vizwiz": thirtieths(vizwiz),
        "llava_vizwiz": thirtieths(by_vizwiz(tools, submitted)[0]),
        "unanswerability": unanswerability,
        "aokvqa": thirtieths(by_aokvqa(tools)),
        "aokvqa_choices": by_aokvqa_choices(tools),
        "pope": by_pope(tools),
        "scienceqa": by_sqa(tools),
        "retrieval": by_retrieval(tools),
        "captions": by_coco(),
    }
    print(json.dumps(numbers, separators=(",", ":")).replace('],"', '],\n"').replace('},"', '},\n"'))


if __name__ == "__main__":
    main()
