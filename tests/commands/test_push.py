"""`ressa push` against a hub on this machine: in a child process, since the hub's library reads its settings once."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from ressa.recipe import PruneRecipe
from ressa.run import run_recipe
from tests.commands.contents import contents
from tests.commands.fake_hub import running_hub

# Several command lines in one process, each with its token.
CHILD = """
import contextlib, io, json, os, sys
from ressa.cli import main
for token, words in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def pushed(endpoint, home, *lines, **environment):
    """(status, out, err) of each line, which is a token and what follows `ressa push`."""
    left = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = {**left, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    asked = json.dumps([(token, ["push", *map(str, words)]) for token, *words in lines])
    ran = subprocess.run([sys.executable, "-c", CHILD, asked], capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def pruned(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("push") / "pruned"
    run_recipe(
        PruneRecipe(
            model=str(world.llava), output=output, calibration=str(world.data), samples=2, method="magnitude"
        )
    )
    return output


def test_a_result_is_uploaded_as_it_is_and_what_is_wrong_is_a_sentence(pruned, world, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(pruned, broken)
    weights = load_file(broken / "model.safetensors")
    key = next(name for name in sorted(weights) if name.endswith("q_proj.weight"))
    save_file({**weights, key: weights[key] + 1}, broken / "model.safetensors", metadata={"format": "pt"})
    (pruned / ".cache").mkdir(exist_ok=True)
    (pruned / ".cache" / "secret").write_text("nobody's business")
    with running_hub() as hub:
        hub.refused = {"expired": (401, "Invalid credentials"), "reader": (403, "Forbidden"),
                       "unlucky": (503, "Maintenance")}  # fmt: skip
        first, again, *wrong = pushed(
            hub.endpoint,
            tmp_path / "home",
            ("good", pruned, "me/sparse", "--private", "--json"),
            ("good", pruned, "me/sparse", "--message", "once more"),
            ("expired", pruned, "me/other"),
            ("reader", pruned, "them/other"),
            ("unlucky", pruned, "me/other"),
            ("good", pruned, "me/full"),
            ("", pruned, "me/other"),
            ("good", broken, "me/other"),
            ("good", world.llava, "me/other"),
            ("good", pruned, "me/../other"),
        )
        assert first[0] == 0, first[2]
        told = json.loads(first[1])
        given = {name: data for name, data in contents(pruned).items() if not name.startswith(".")}
        assert hub.repositories == {"me/sparse": given, "me/full": {}}
        assert hub.private == {"me/sparse"}
        assert (told["files"], told["bytes"]) == (len(given), sum(map(len, given.values())))
        assert told["url"] == f"{hub.endpoint}/me/sparse"
        assert again[0] == 0, again[2]
        assert "are in" in again[1]
        assert hub.cards[0] == given["README.md"].decode()
        assert [each["summary"] for each in hub.commits] == ["Upload pruned, made by ressa", "once more"]
    sentences = ["hf auth login", "write access", "503", "507: No room", "no token", "nothing was uploaded",
                 "no ressa.json", "OWNER/NAME"]  # fmt: skip
    statuses = [1, 1, 1, 1, 2, 1, 2, 2]
    for (status, out, err), sentence, expected in zip(wrong, sentences, statuses, strict=True):
        lines = [line for line in err.splitlines() if line.startswith("ressa: ")]
        assert (status, out, len(lines)) == (expected, "", 1), err
        assert "Traceback" not in err
        assert sentence in lines[0]


def test_weights_that_an_earlier_upload_cut_otherwise_are_replaced(pruned, tmp_path):
    with running_hub() as hub:
        hub.repositories["me/sparse"] = {"model-00001-of-00002.safetensors": b"old", "notes.md": b"mine"}
        ((status, _, err),) = pushed(hub.endpoint, tmp_path, ("good", pruned, "me/sparse"))
        assert status == 0, err
        assert "model-00001-of-00002.safetensors" not in hub.repositories["me/sparse"]
        assert hub.repositories["me/sparse"]["notes.md"] == b"mine"


def test_without_a_network(pruned, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    ((status, _, err),) = pushed(endpoint, tmp_path, ("good", pruned, "me/sparse"))
    assert (status, "check the network" in err, "Traceback" in err) == (1, True, False)
    ((status, _, err),) = pushed(endpoint, tmp_path, ("good", pruned, "me/sparse"), HF_HUB_OFFLINE="1")
    assert (status, "HF_HUB_OFFLINE is set" in err) == (2, True)
