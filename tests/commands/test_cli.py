"""The command line: every command, its help, and one sentence with the right exit code for what is wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import get_args

import pytest
import torch
import transformers

from ressa import __version__
from ressa.checkpoint import StreamedWeights, read_manifest, read_masks
from ressa.recipe import RECIPES
from ressa.repairing.config import Method

COMMANDS = (*RECIPES, "inspect", "pack", "unpack", "bench", "run")


def prune_arguments(world, output, *more):
    return ("prune", world.llava, "-o", output, "--calibration", world.data, "--samples", 6, *more)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(ressa, command):
    said = ressa(command, "--help")
    assert said.status == 0
    assert f"Example:\n    ressa {command}" in said.out


@pytest.mark.parametrize("command", RECIPES)
def test_every_key_of_a_recipe_is_an_option(ressa, command):
    text = ressa(command, "--help").out
    hidden = {"command", "model", "models", "options"} | ({"output"} if command == "evaluate" else set())
    for name in set(RECIPES[command].model_fields) - hidden:
        assert f"--{name.replace('_', '-')} " in text


def test_help_needs_no_pytorch():
    every = [["--help"], *([command, "--help"] for command in COMMANDS)]
    code = f"""
import sys
from ressa.cli import main
assert not any(main(words) for words in {every})
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_no_command_shows_the_help_and_version_the_version(ressa):
    assert "demo" in ressa().out
    assert ressa("--version").out.strip() == f"ressa {__version__}"


def test_prune_writes_a_folder_once(ressa, world, tmp_path):
    output = tmp_path / "pruned"
    said = ressa(*prune_arguments(world, output, "--language", "0.5"))
    assert said.status == 0
    assert "50.00%" in said.out
    assert os.listdir(tmp_path) == ["pruned"]
    manifest = read_manifest(output)
    assert manifest.recipe["language"] == "0.5"
    assert manifest.calibration["samples"] == 6
    assert manifest.calibration["fingerprint"]
    assert manifest.towers == {"vision": 0.5, "connector": 0.0, "language": 0.5}

    written = (output / "ressa.json").stat().st_mtime_ns
    assert "already" in ressa(*prune_arguments(world, output, "--language", "50%")).out
    assert (output / "ressa.json").stat().st_mtime_ns == written

    said = ressa(*prune_arguments(world, output, "--seed", 1))
    assert said.status == 2
    assert "(seed, language)" in said.sentence
    assert ressa(*prune_arguments(world, output, "--seed", 1, "--force")).status == 0
    assert read_manifest(output).seed == 1


def test_a_finished_result_stands_without_its_dense_model(ressa, world, tmp_path):
    dense, output = shutil.copytree(world.llava, tmp_path / "dense"), tmp_path / "pruned"
    arguments = ("prune", dense, "-o", output, "--method", "magnitude", "--calibration", world.data)
    assert ressa(*arguments).status == 0
    shutil.rmtree(dense)
    assert "already" in ressa(*arguments).out


def test_what_is_not_there_cannot_be_repaired(ressa, tmp_path):
    said = ressa("repair", tmp_path / "nothing", "-o", tmp_path / "repaired")
    assert said.status == 2
    assert "give a folder that ressa pruned or repaired" in said.err


def test_what_is_not_ours_is_not_overwritten(ressa, world, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    said = ressa(*prune_arguments(world, tmp_path / "mine"))
    assert said.status == 2
    assert "exists already" in said.sentence
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]


def test_what_a_run_reads_is_never_replaced(ressa, world, pruned, tmp_path):
    model = tmp_path / "models" / "llava"
    shutil.copytree(world.llava, model)
    for output in (model, model.parent):
        said = ressa("prune", model, "-o", output, "--calibration", world.data, "--force")
        assert said.status == 2
        assert "which is read" in said.sentence
    said = ressa("repair", pruned, "-o", pruned, "--data", world.data, "--force")
    assert "which is read" in said.sentence
    assert os.listdir(tmp_path) == ["models"]
    assert sorted(os.listdir(model)) == sorted(os.listdir(world.llava))


def test_inspect_counts_in_the_weights(ressa, world, tmp_path):
    ressa(*prune_arguments(world, tmp_path / "pruned", "--vision", "dense"))
    data = json.loads(ressa("inspect", tmp_path / "pruned", "--json").out)
    assert data["towers"] == {"vision": 0.0, "connector": 0.0, "language": 0.5}
    assert data["holds"] is True
    assert {layer["asked"] for layer in data["layers"]} == {"dense", "2:4"}
    said = ressa("inspect", tmp_path / "pruned", "--layers").out
    assert "Every layer keeps to its pattern." in said
    assert all(layer["name"].split(".")[-1] in said for layer in data["layers"])
    assert "No pattern was asked" in ressa("inspect", world.llava).out


def test_inspect_finds_a_zero_that_moved(ressa, world, tmp_path):
    ressa(*prune_arguments(world, tmp_path / "pruned"))
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "pruned")
    layer = next(m for n, m in model.named_modules() if n.endswith("mlp.up_proj"))
    layer.weight.data += (layer.weight == 0).float()
    model.save_pretrained(tmp_path / "pruned")
    said = ressa("inspect", tmp_path / "pruned", "--json", tmp_path / "found.json")
    assert said.status == 1
    assert "1 layer does not keep" in said.sentence
    assert "mlp.up_proj" in said.sentence
    assert "language" in said.out  # the table is shown all the same
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["holds"] is False
    assert [layer["name"] in said.sentence for layer in found["layers"] if layer["holds"] is False] == [True]


def test_predictions_lie_beside_the_scores_and_are_scored_again(ressa, world, tmp_path):
    options = ["evaluate", world.llava, "--data", world.data, "--tasks", "vqa,gqa", "--limit", 3]
    said = ressa(*options, "--json", tmp_path / "scores.json")
    assert said.status == 0, said.err
    predictions = tmp_path / "scores.predictions.jsonl"
    assert f"Every answer is in {predictions}" in said.out.replace("\n", "")
    scores = json.loads((tmp_path / "scores.json").read_text())
    again = json.loads(ressa("score", predictions, "--json").out)
    assert again["tasks"] == scores["tasks"]
    lavis = ressa("score", predictions, "--metric", "lavis")
    assert "GQA (LAVIS)" in lavis.out
    elsewhere = tmp_path / "elsewhere.jsonl"
    assert ressa(*options, "--json", "--predictions", elsewhere).status == 0
    assert len(elsewhere.read_text().splitlines()) == len(predictions.read_text().splitlines())
    assert ressa("score", tmp_path / "nothing.jsonl").status == 2
    assert ressa("score", predictions, "--split", "train", "--tasks", "gqa").status == 2


def test_recipes_run_in_order_and_match_the_commands(ressa, world, tmp_path):
    pruned, repaired, scores = (tmp_path / name for name in ("pruned", "repaired", "scores.json"))
    (tmp_path / "all.yaml").write_text(
        f"""
command: prune
model: {world.instructblip}
output: {pruned}
pattern: 2:4
calibration: {world.data}
samples: 4
---
command: repair
model: {pruned}
output: {repaired}
data: {world.data}
samples: 8
batch_size: 4
options: {{warmup_steps: 1}}
---
command: evaluate
model: {repaired}
output: {scores}
data: {world.data}
tasks: [okvqa, retrieval]
limit: 2
"""
    )
    said = ressa("run", tmp_path / "all.yaml", "--json", tmp_path / "out.json")
    assert said.status == 0, said.err
    before, after, found = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(scores.read_text()) == found
    assert set(found["tasks"]) == {"okvqa", "retrieval"}
    assert before["towers"] == after["towers"] == found["sparsity"]
    assert len(read_manifest(repaired).training["history"]) == 2
    masks, kept = read_masks(pruned), read_masks(repaired)
    assert masks.keys() == kept.keys()
    assert all(torch.equal(masks[name], kept[name]) for name in masks)
    made = ["all.yaml", "out.json", "pruned", "repaired", "scores.json", "scores.predictions.jsonl"]
    assert sorted(os.listdir(tmp_path)) == made

    again = ressa("repair", pruned, "-o", repaired, "--data", world.data, "--samples", 8, "--batch-size", 4,
                  "--option", "warmup_steps=1")  # fmt: skip
    assert "already" in again.out
    ressa("prune", world.instructblip, "-o", pruned, "--calibration", world.data, "--samples", 5, "--force")
    stale = ressa("repair", pruned, "-o", repaired, "--data", world.data, "--samples", 8, "--batch-size", 4,
                  "--option", "warmup_steps=1")  # fmt: skip
    assert "parent" in stale.sentence


def test_evaluate_prints_a_table_or_json(ressa, world, tmp_path):
    arguments = ("evaluate", world.llava, "--data", world.data, "--tasks", "gqa", "--limit", 1)
    assert "GQA" in ressa(*arguments).out
    data = json.loads(ressa(*arguments, "--json").out)
    assert data["average"] == data["tasks"]["gqa"]["score"]
    assert data["sparsity"] == {"vision": 0.0, "connector": 0.0, "language": 0.0}
    ressa(*arguments, "--json", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["tasks"] == data["tasks"]


def empty_calibration(data):
    (data / "captions_calibration.json").write_text('{"images": [], "annotations": []}')


def missing_images(data):
    shutil.rmtree(data / "images" / "calibration")
    (data / "images" / "calibration").mkdir()


def unreadable_image(data):
    for path in (data / "images" / "calibration").iterdir():
        path.write_bytes(b"no picture")


def no_dataset(data):
    for path in data.glob("*.json"):
        path.unlink()


@pytest.mark.parametrize("spoil", [empty_calibration, missing_images, unreadable_image, no_dataset])
def test_calibration_data_that_cannot_be_used(ressa, world, tmp_path, spoil):
    data = tmp_path / "data"
    shutil.copytree(world.data, data)
    spoil(data)
    said = ressa("prune", world.llava, "-o", tmp_path / "out", "--calibration", data)
    assert said.status == 2
    assert str(data) in said.sentence
    assert os.listdir(tmp_path) == ["data"]


def text_model(folder):
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["{absent}"], "absent"),
        (["{text}"], "reads no pictures"),
        (["{llava}", "--pattern", "7:11"], "not a multiple of 11"),
        (["{llava}", "--pattern", "4:2"], "4:2"),
        (["{llava}", "--sparsity", "1.5"], "1.5"),
        (["{llava}", "--sparsity", "-0.5"], "-0.5"),
        (["{llava}", "--sparsity", "0.5", "--pattern", "1:4"], "same thing"),
        (["{llava}", "--vision", "dense", "--language", "dense"], "nothing would be pruned"),
        (["{llava}", "--method", "wonda"], "wonda"),
        (["{llava}", "--option", "speed=9"], "no option 'speed'"),
        (["{llava}", "--option", "speed"], "name=value"),
        (["{llava}", "--samples", "0"], "'samples'"),
        (["{llava}", "--samples", "few"], "--samples"),
        (["{llava}", "--device", "cuda:99"], "cuda:99"),
        (["{llava}", "--calibration", "nowhere"], "nowhere"),
        (["{llava}", "--mixture", "novels"], "novels"),
        (["{llava}", "--colour", "red"], "--colour"),
        (["{llava}", "--seed", str(2**32)], "'seed'"),
        (["{llava}", "--samples", "9" * 30], "'samples'"),
        (["{llava}", "--alpha", "nan"], "finite"),
        (["{llava}", "--method", "sparsegpt", "--option", "percdamp=NaN"], "finite"),
        (["{llava}", "--method", "sparsegpt", "--option", "percdamp=abc"], "percdamp"),
        (["{llava}", "--option", "x=" + "[" * 100_000], "deep"),
        (["{llava}", "--device", "cuda:99999999999999999999"], "no device"),
        (["{llava}", "--split", "../../secret"], "split"),
        (["{llava}", "--calibration", ""], "empty"),
        (["{llava}", "-o", ""], "no name for a new folder"),
        (["{llava}", "-o", "."], "no name for a new folder"),
        (["{llava}", "-o", "/"], "no name for a new folder"),
        (["{llava}", "--pattern", "9" * 5000 + ":4"], "not a pattern"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_sentence_and_leaves_nothing(ressa, world, tmp_path, options, said):
    text_model(tmp_path / "text")
    places = {"absent": tmp_path / "absent", "text": tmp_path / "text", "llava": world.llava}
    options = [option.format(**places) for option in options]
    calibration = [] if "--calibration" in options else ["--calibration", world.data]
    result = ressa("prune", "-o", tmp_path / "out", *options, *calibration)
    assert result.status == 2
    assert said in result.sentence
    assert result.out == ""
    assert os.listdir(tmp_path) == ["text"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["repair", "{llava}", "-o", "{out}"], "ressa.json"),
        (["repair", "{absent}", "-o", "{out}"], "absent"),
        (["repair", "{pruned}", "-o", "{out}", "--dense", "{absent}"], "absent"),
        (["repair", "{pruned}", "-o", "{out}", "--option", "speed=9"], "speed"),
        (["repair", "{pruned}", "-o", "{out}", "--kd-weight", "2"], "kd_weight"),
        (["repair", "{pruned}", "-o", "{out}", "--epochs", "inf"], "epochs"),
        (["repair", "{pruned}", "-o", "{out}", "--epochs", "1e300"], "epochs"),
        (
            ["repair", "{pruned}", "-o", "{out}", "--option", 'learning_rates={{"vision": -1}}'],
            "learning_rates",
        ),
        (["evaluate", "{pruned}", "--json", "{folder}"], "is a folder"),
        (["evaluate", "{absent}"], "absent"),
        (["evaluate", "{pruned}", "--tasks", "chess"], "chess"),
        (["evaluate", "{pruned}", "--split", "spring"], "spring"),
        (["inspect", "{absent}"], "absent"),
        (["run", "{absent}"], "absent"),
        (["dance"], "dance"),
    ],
)
def test_other_commands_refuse_in_one_sentence(ressa, world, pruned, tmp_path, arguments, said):
    places = {"llava": world.llava, "absent": tmp_path / "absent", "out": tmp_path / "out", "pruned": pruned}
    places["folder"] = shutil.copytree(
        world.data / "images" / "test", tmp_path.parent / "folder.json", dirs_exist_ok=True
    )
    arguments = [word.format(**places) for word in arguments]
    if arguments[0] in ("repair", "evaluate"):
        arguments += ["--data", str(world.data)]
    result = ressa(*arguments)
    assert result.status == 2
    assert said in result.sentence
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def pruned(world, tmp_path_factory):
    from ressa.recipe import PruneRecipe
    from ressa.run import run_recipe

    output = tmp_path_factory.mktemp("pruned") / "pruned"
    recipe = PruneRecipe(model=str(world.llava), output=output, calibration=str(world.data), samples=6)
    run_recipe(recipe)
    return output


@pytest.mark.parametrize("method", get_args(Method))
def test_every_way_to_repair_ends_in_a_folder(ressa, world, pruned, tmp_path, method):
    output = tmp_path / "repaired"
    sizes = ["--samples", 4, "--batch-size", 2, "--option", "reconstruct_epochs=1"]
    wanted = ["repair", pruned, "-o", output, "--data", world.data, "--option", f"method={method}", *sizes]
    result = ressa(*wanted)
    assert result.status == 0, result.err
    manifest = read_manifest(output)
    before = read_manifest(pruned)
    if method == "lora":
        assert "filled the zeros" in result.out
        assert manifest.plan == {}
        assert manifest.towers["language"] < 0.01
    else:
        assert manifest.plan == before.plan
        assert manifest.towers == before.towers
    assert "held this result already" in ressa(*wanted).out
    assert ressa("inspect", output).status == 0


@pytest.fixture
def signals():
    """Ctrl-C and termination as a shell's foreground job has them, however this process was started."""
    theirs = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {each: signal.signal(each, handler) for each, handler in theirs.items()}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_parent_had_ignored_stays_ignored(
    ressa, world, tmp_path, monkeypatch, signals, how
):
    keep = StreamedWeights.keep

    def keep_and_send(self, *arguments):
        keep(self, *arguments)
        os.kill(os.getpid(), how)

    monkeypatch.setattr(StreamedWeights, "keep", keep_and_send)
    signal.signal(how, signal.SIG_IGN)
    assert ressa(*prune_arguments(world, tmp_path / "pruned")).status == 0
    assert signal.getsignal(how) is signal.SIG_IGN


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_result_and_goes_on(
    ressa, world, pruned, tmp_path, monkeypatch, signals, how
):
    keep, kept = StreamedWeights.keep, []

    def keep_and_stop(self, block, weights, masks):
        keep(self, block, weights, masks)
        kept.append(block.name)
        if len(kept) == 2:
            os.kill(os.getpid(), how)

    output = tmp_path / "pruned"
    monkeypatch.setattr(StreamedWeights, "keep", keep_and_stop)
    said = ressa(*prune_arguments(world, output))
    assert said.status == 130
    assert "Interrupted" in said.sentence
    assert not output.exists()

    assert ressa(*prune_arguments(world, output)).status == 0
    assert len(kept) == len(set(kept))  # no block was pruned twice
    assert os.listdir(tmp_path) == ["pruned"]
    ours, whole = read_masks(output), read_masks(pruned)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_threads_wait_asleep_unless_the_user_says_how(ressa, monkeypatch):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    for chosen in (None, *names):
        for name in names:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        if chosen is not None:
            monkeypatch.setenv(chosen, "7")
        ressa("--version")
        given = {name: os.environ[name] for name in names if name in os.environ}
        assert given == ({"OMP_WAIT_POLICY": "passive"} if chosen is None else {chosen: "7"})


def test_scores_are_shown_though_their_file_cannot_be_written(ressa, world, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ressa.files.write_json", full)
    said = ressa("evaluate", world.llava, "--data", world.data, "--tasks", "gqa", "--limit", 1,
                 "--json", tmp_path / "scores.json")  # fmt: skip
    assert said.status == 1
    assert "GQA" in said.out
    assert "No space left" in said.sentence


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_one_sentence(ressa, pruned, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr("ressa.checkpoint.count_sparsity", full)
    said = ressa("inspect", pruned)
    assert said.status == 1
    assert "not enough memory" in said.sentence


def test_a_reader_that_has_seen_enough_is_no_error(pruned):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ressa", "inspect", str(pruned), "--json"]
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_where_the_json_cannot_go_is_told_before_the_work(ressa, world, tmp_path):
    (tmp_path / "file").write_text("")
    said = ressa("evaluate", world.llava, "--data", world.data, "--tasks", "gqa", "--limit", 1,
                 "--json", tmp_path / "file" / "scores.json")  # fmt: skip
    assert said.status == 2
    assert "cannot be written" in said.sentence
    assert "GQA" not in said.err
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "words", [["--json"], ["--json", "-"], ["--json", "/dev/stdout"], ["--json=/dev/stdout"]]
)
def test_json_on_standard_output_is_all_that_stands_there(ressa, pruned, words):
    said = ressa("inspect", pruned, *words)
    assert said.status == 0
    assert json.loads(said.out)["towers"]
    assert ressa("inspect", pruned, "--json=").status == 2
