"""Every option of every command, on the command line and in a recipe file, with values that it cannot have."""

import pytest
import yaml

from ressa.recipe import RECIPES
from tests.robustness.net import Net

WORDS = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", "-0.0", "1.5", "9" * 400, "1e9999999999"),
    *(
        "abc",
        "None",
        "true",
        "[]",
        "{}",
        "--",
        "-",
        ".",
        "..",
        "/",
        "a/../..",
        "a\nb",
        "🦊",
        "\udcff",
        "x" * 5000,
    ),
    *(
        "4:2",
        "0:4",
        "1:0",
        "2:4:8",
        "100%",
        "0.5@column",
        "vqa,,",
        "cuda:9999999",
        "2147483648",
        "4294967296",
    ),
)
VALUES = (
    *(None, True, -1, 0, 10**30, 1.5, -0.0, float("nan"), float("inf"), "", "abc", "a\0b", "x" * 5000),
    *([], {}, [None], [[[]]], {"a": {"b": []}}, {1: 2}, ["2:4"], "2026-11-25", "!!null", "<<"),
)
FIELDS = [
    pytest.param(command, name, id=f"{command}-{name}")
    for command, recipe in RECIPES.items()
    for name in recipe.model_fields
    if name != "command"
]


@pytest.mark.parametrize(("command", "name"), FIELDS)
def test_an_option_with_a_value_it_cannot_have(net: Net, command: str, name: str) -> None:
    absent = net.folder / "absent"  # so that a value which is right after all does no work
    for word in WORDS:
        model, output = (word if name == "model" else absent), (word if name == "output" else net.out)
        where = ["--model", model] if command == "demo" else [model]
        where += [] if command == "evaluate" else ["-o", output]
        flag = "--option" if name == "options" else f"--{name.replace('_', '-')}"
        more = [] if name in ("model", "output") else [flag, word]
        net.check((name, word), command, *where, *more)


@pytest.mark.parametrize(("command", "name"), FIELDS)
def test_a_recipe_file_with_a_value_it_cannot_have(net: Net, command: str, name: str) -> None:
    file = net.folder / "recipe.yaml"
    least = {"command": command, "model": str(net.folder / "absent")}
    least |= {} if command == "evaluate" else {"output": str(net.out)}
    for value in VALUES:
        file.write_text(yaml.safe_dump({**least, name: value}))
        net.check((name, value), "run", file)


OTHERS = {
    "pack": ("output", "json"),
    "unpack": ("output", "json"),
    "inspect": ("figure", "json"),
    "bench": ("batch-sizes", "new-tokens", "rounds", "mode", "dtype", "device", "json"),
}


@pytest.mark.parametrize("command", OTHERS)
def test_an_option_of_a_command_without_a_recipe(net: Net, command: str) -> None:
    absent = net.folder / "absent"
    for name in OTHERS[command]:
        for word in WORDS:
            where = ["-o", net.out] if command in ("pack", "unpack") and name != "output" else []
            net.check((name, word), command, absent, f"--{name}={word}", *where, may=(1, 2))


@pytest.mark.parametrize("command", [*RECIPES, *OTHERS, "run"])
def test_a_command_line_that_is_none(net: Net, command: str) -> None:
    absent = net.folder / "absent"
    for words in (
        *([], ["a", "b", "c"], ["--"], ["-x"], ["--seed"], ["--output"], ["--samples=="], ["--nothing=1"]),
        *([absent, "--json", net.folder], [absent, "--device"], ["-o"], [""], ["\udcff"], ["~nobody/model"]),
    ):
        if command == "demo" and words in ([], ["--"]):  # a whole command line
            continue
        net.check(words, command, *words)


BROKEN = {
    "nothing": b"",
    "a picture": b"\x89PNG\r\n\x1a\n\0\0",
    "UTF-16": "command: prune".encode("utf-16"),
    "Latin-1": "command: prune\nmodel: é".encode("latin-1"),
    "a list": b"- prune\n- repair\n",
    "a word": b"prune",
    "an open bracket": b"command: [prune",
    "a tab": b"command:\tprune\n\tmodel: x",
    "many brackets": b"[" * 100_000,
    "a million keys": b"".join(b"k%d: 1\n" % n for n in range(50_000)),
    "a tag": b"!!python/object/apply:os.system [true]",
    "another tag": b"command: !!python/name:os.system",
    "an alias of itself": b"a: &a [*a, *a]",
    "an alias of nothing": b"command: *prune",
    "a date that is none": b"command: 2026-13-45",
    "a number of digits": b"command: prune\nsamples: " + b"9" * 10_000,
    "binary": b"command: !!binary x",
    "a set": b"command: !!set {prune, repair}",
    "a merge of text": b"<<: prune\ncommand: prune",
    "a list as a key": b"? [a, b]\n: prune",
    "a key twice": b"command: prune\ncommand: prune",
    "an empty document": b"---\n---\n",
    "no command": b"model: x",
    "two commands": b"command: [prune, repair]",
    "a command that is none": b"command: dance",
    "NUL": b"command: prune\0",
    "a repair of a repair": b"command: repair\nmodel: absent\noutput: out\n---\ncommand: dance",
}  # fmt: skip


def test_a_recipe_file_that_is_none(net: Net) -> None:
    for what, content in BROKEN.items():
        (net.folder / "recipe.yaml").write_bytes(content)
        net.check(what, "run", net.folder / "recipe.yaml")
    for path in (
        net.folder,
        net.folder / "absent",
        "",
        "\udcff",
        "x" * 5000,
        "/dev/null",
        net.inputs.model / "config.json",
    ):
        net.check(path, "run", path)
