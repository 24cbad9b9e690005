"""Where things are read and written: folders in the way, links, names that cannot be, disks that refuse."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.net import QUICK, Net, snapshot


def a_file(place: Path) -> None:
    place.write_text("dear")


def a_full_folder(place: Path) -> None:
    place.mkdir()
    (place / "letter.txt").write_text("dear")


def a_link_to_itself(place: Path) -> None:
    place.symlink_to(place.name)


OUTPUTS: dict[str, Callable[[Path], Any]] = {
    "a file": a_file,
    "a folder of somebody's": a_full_folder,
    "a pipe": os.mkfifo,
    "a link to itself": a_link_to_itself,
    "a folder with an empty manifest": lambda place: place.mkdir() or (place / "ressa.json").write_text(""),
    "a folder with a manifest of nothing": lambda place: (
        place.mkdir() or (place / "ressa.json").write_text("{}")
    ),
    "a folder with a folder for a manifest": lambda place: (place / "ressa.json").mkdir(parents=True),
    "a folder with a pipe for a manifest": lambda place: place.mkdir() or os.mkfifo(place / "ressa.json"),
}


def commands(net: Net, output: object) -> dict[str, tuple[object, ...]]:
    data = net.inputs.data
    return {
        "prune": ("prune", net.inputs.model, "-o", output, "--calibration", data, *QUICK),
        "repair": (
            "repair",
            net.inputs.pruned,
            "-o",
            output,
            "--data",
            data,
            "--samples",
            4,
            "--no-warm-start",
        ),
        "pack": ("pack", net.inputs.pruned, "-o", output),
        "sweep": ("sweep", net.inputs.model, "-o", output, "--data", data, "--calibration", data, *QUICK),
        "demo": ("demo", "--model", net.inputs.model, "-o", output, "--data", data, "--samples", 4),
    }


@pytest.mark.parametrize("command", ["prune", "repair", "pack", "sweep", "demo"])
def test_what_is_in_the_way_stays(net: Net, command: str) -> None:
    for what, make in OUTPUTS.items():
        net.clear()
        make(net.out)
        net.check(what, *commands(net, net.out)[command])
    for what in ("a file", "a pipe", "a link to itself"):  # no --force takes these away
        net.clear()
        OUTPUTS[what](net.out)
        net.check((what, "by force"), *commands(net, net.out)[command], "--force")
    for what, output in {
        "beneath a file": net.inputs.model / "config.json" / "out",
        "the model": net.inputs.pruned if command == "pack" else net.inputs.model,
        "around the model": net.inputs.model.parent,
        **({} if command == "pack" else {"the data": net.inputs.data}),
        "a name that is too long": net.folder / ("x" * 300),
        "a path that is too long": net.folder.joinpath(*["x" * 200] * 30),
        "where nobody may write": "/proc/out",
    }.items():
        for force in ([], ["--force"]):
            if command in ("sweep", "demo") and force:  # they replace nothing but their own
                continue
            net.check((what, *force), *commands(net, output)[command], *force, may=(1, 2))


@pytest.mark.parametrize("command", ["prune", "repair", "pack"])
def test_what_is_in_the_way_of_the_json(net: Net, command: str) -> None:
    for what, make in {"a folder": Path.mkdir, "a link to itself": a_link_to_itself}.items():
        net.clear()
        make(net.folder / "result.json")
        net.check(what, *commands(net, net.out)[command], "--json", net.folder / "result.json")
    for target in (
        net.inputs.data / "karpathy.json" / "x.json",
        "/proc/x.json",
        net.folder / f"{'x' * 300}.json",
    ):
        net.check(target, *commands(net, net.out)[command], "--json", target, may=(1, 2))


def test_what_is_in_the_way_of_the_figure(net: Net) -> None:
    for make in (os.mkdir, os.mkfifo, a_link_to_itself):
        net.clear()
        make(net.folder / "zeros.png")
        net.check(make.__name__, "inspect", net.inputs.pruned, "--figure", net.folder / "zeros.png")
    net.check("beneath a file", "inspect", net.inputs.pruned, "--figure", net.inputs.model / "config.json" / "x.png",
              may=(1, 2))  # fmt: skip


PLANS = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "no layers": b"{}",
    "no plan": b'{"plan": null}',
    "a plan of lists": b'{"plan": {"a": ["2:4"]}}',
    "no pattern": b'{"plan": {"a": "4:2"}}',
    "another model's": b'{"plan": {"a.layer": "2:4"}}',
    "brackets": b"[" * 100_000,
    "Latin-1": b'{"plan": "\xe9"}',
    "a long pattern": b'{"plan": {"a": "' + b"9" * 10_000 + b':4"}}',
    "cut": b'{"plan": {"a": "2:4"',
}


def test_a_plan_that_is_none(net: Net) -> None:
    plan = net.folder / "plan.json"
    for what, content in PLANS.items():
        plan.write_bytes(content)
        net.check(what, *commands(net, net.out)["prune"], "--plan", plan)
    plan.unlink()
    os.mkfifo(plan)
    for place in (plan, net.inputs.data, net.inputs.model, "/dev/null", "/proc/self/mem"):
        net.check(place, *commands(net, net.out)["prune"], "--plan", place)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "replace", "rename", "mkdir"])
def test_a_disk_that_refuses(net: Net, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Every few calls of one kind fail: one sentence, and the same command succeeds once the disk is well."""
    real = getattr(os, call)
    for healthy in (0, 1, 2, 4, 8):
        left = healthy

        def refusing(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            what = f"/proc/self/fd/{arguments[0]}" if isinstance(arguments[0], int) else arguments[0]
            left -= 1
            if left < 0 and str(net.folder) in os.path.realpath(what):
                raise OSError(code, os.strerror(code), str(what))
            return real(*arguments, **options)

        net.clear()
        command = commands(net, net.out)["prune"]
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refusing)
            status = net.check((call, healthy), *command, may=(0, 1, 2))
        if status:
            net.check((call, healthy, "again"), *command, may=(0,))
    shutil.rmtree(net.out, ignore_errors=True)
    assert not snapshot(net.folder)
