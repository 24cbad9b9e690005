"""What a command imports, asked of a child process: nothing that it does not use, nothing before it is needed."""

import subprocess
import sys

import pytest

import ressa

COMMAND = """
import sys
from ressa.cli import main
status = main(sys.argv[1:])
print(status, *sorted(name for name in sys.modules if "." not in name or name.startswith("ressa.")), file=sys.stderr)
"""


def imported(*arguments):
    """The exit code, and the modules of ressa and top-level modules of others, after one command line."""
    words = [str(argument) for argument in arguments]
    ran = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True)
    status, *modules = ran.stderr.splitlines()[-1].split()
    return int(status), set(modules)


@pytest.fixture(scope="module")
def pruned(world, tmp_path_factory):
    from ressa.recipe import PruneRecipe
    from ressa.run import run_recipe

    output = tmp_path_factory.mktemp("pruned") / "pruned"
    recipe = PruneRecipe(
        model=str(world.llava), output=output, calibration=str(world.data), samples=4, method="magnitude"
    )
    run_recipe(recipe)
    return output


def test_the_front_door_costs_nothing():
    code = "import sys, ressa; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "pydantic", "numpy"} & set(modules)


def test_every_name_of_the_front_door_is_there():
    assert set(ressa.__all__) <= set(dir(ressa))
    assert all(getattr(ressa, name) is not None for name in ressa.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        ressa.prun  # noqa: B018


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune", "{absent}", "-o", "{out}"],
        ["prune", "{llava}", "-o", "{out}", "--method", "wonda"],
        ["prune", "{llava}", "-o", "{out}", "--method", "sparsegpt", "--option", "percdamp=NaN"],
        ["prune", "{llava}", "-o", "{out}", "--pattern", "4:2"],
        ["prune", "{llava}", "-o", "{out}", "--plan", "{absent}"],
        ["prune", "{llava}", "-o", "{out}", "--calibration", "{absent}"],
        ["prune", "{llava}", "-o", "{out}", "--calibration", "{data}", "--split", "spring"],
        ["repair", "{absent}", "-o", "{out}"],
        ["repair", "{pruned}", "-o", "{out}", "--dense", "{absent}"],
        ["repair", "{pruned}", "-o", "{out}", "--data", "{absent}"],
        ["repair", "{pruned}", "-o", "{out}", "--option", "speed=9"],
        ["evaluate", "{absent}"],
        ["evaluate", "{llava}", "--data", "{absent}"],
        ["evaluate", "{llava}", "--tasks", "chess"],
        ["sweep", "{absent}", "-o", "{out}"],
        ["inspect", "{absent}"],
        ["inspect", "{absent}", "--recipe"],
        ["push", "{absent}", "me/sparse"],
        ["push", "{pruned}", "no name"],
        ["evaluate", "{llava}", "--card", "{llava}"],
        ["evaluate", "{llava}", "--harness", "lmms-eval"],
        ["repair", "{pruned}", "-o", "{out}", "--report-to", "chess"],
        ["demo", "--model", "{absent}", "-o", "{out}"],
        ["run", "{absent}"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[-2:]),
)
def test_what_is_wrong_is_told_before_pytorch_is_imported(world, pruned, tmp_path, arguments):
    places = {
        "llava": world.llava,
        "data": world.data,
        "pruned": pruned,
        "absent": tmp_path / "absent",
        "out": tmp_path / "out",
    }
    status, modules = imported(*(word.format(**places) for word in arguments))
    assert status == 2
    assert not {"torch", "transformers", "matplotlib"} & modules


def test_a_finished_result_is_found_without_pytorch(world, pruned):
    status, modules = imported("prune", world.llava, "-o", pruned, "--calibration", world.data, "--samples", 4,
                               "--method", "magnitude")  # fmt: skip
    assert status == 0
    assert "torch" not in modules


def test_the_recipes_of_a_result_are_printed_without_pytorch(pruned):
    status, modules = imported("inspect", pruned, "--recipe")
    assert status == 0
    assert not {"torch", "transformers"} & modules


def test_inspecting_a_result_takes_no_model(pruned):
    status, modules = imported("inspect", pruned)
    assert status == 0
    assert "torch" in modules
    assert not {"transformers", "peft", "accelerate", "matplotlib", "scipy", "pycocoevalcap"} & modules


def test_pruning_and_repairing_do_not_import_evaluation(world, pruned, tmp_path):
    status, modules = imported("prune", world.llava, "-o", tmp_path / "out", "--calibration", world.data,
                               "--samples", 4)  # fmt: skip
    assert status == 0
    assert (
        not {"pycocoevalcap", "peft", "matplotlib", "ressa.evaluation.tasks", "ressa.repairing.training"}
        & modules
    )
    status, modules = imported("repair", pruned, "-o", tmp_path / "repaired", "--data", world.data, "--samples", 4,
                               "--batch-size", 4, "--no-warm-start")  # fmt: skip
    assert status == 0
    assert not {"pycocoevalcap", "matplotlib", "ressa.pruning"} & modules
