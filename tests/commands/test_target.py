"""Whatever happens to a run and beside it, its result is that of an undisturbed run, and no other's."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from ressa.checkpoint import FinishedBlocks, StreamedWeights
from tests.commands.contents import contents_but_times
from tests.test_files import files_of_at_most
from tests.test_locks import holder


@pytest.fixture(scope="module", params=["wanda", "sparsegpt"])
def method(request):
    """One that keeps what it does not prune, whose finished blocks are masks, and one whose are weights."""
    return request.param


@pytest.fixture(scope="module")
def prune(method):
    def words(world, output, *more):
        return ("prune", world.llava, "-o", output, "--calibration", world.data, "--samples", 4,
                "--method", method, *more)  # fmt: skip

    return words


@pytest.fixture
def cut_short(ressa, monkeypatch):
    """Run a command until it has kept so many blocks."""

    def run(arguments, blocks=3):
        kept = []

        def stopping(keep):
            def keep_and_stop(self, *block):
                keep(self, *block)
                kept.append(block[0].name)
                if len(kept) == blocks:
                    raise KeyboardInterrupt

            return keep_and_stop

        with monkeypatch.context() as patched:
            for keeper in (FinishedBlocks, StreamedWeights):
                patched.setattr(keeper, "keep", stopping(keeper.keep))
            said = ressa(*arguments)
        assert said.status == 130
        return kept

    return run


@pytest.fixture(scope="module")
def straight(prune, world, tmp_path_factory):
    from ressa.cli import main

    output = tmp_path_factory.mktemp("straight") / "out"
    assert main([str(word) for word in prune(world, output)]) == 0
    return contents_but_times(output)


def empty(path):
    path.write_bytes(b"")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path):
    path.write_bytes(b"\xff" * path.stat().st_size)


def flip_the_last(path):
    path.write_bytes(path.read_bytes()[:-1] + b"\xee")


@pytest.mark.parametrize("damage", [empty, halve, scramble, flip_the_last])
@pytest.mark.parametrize("what", ["recipe.json", "*.safetensors"])
def test_damaged_work_is_done_again_and_that_is_said(
    ressa, prune, world, straight, cut_short, tmp_path, what, damage
):
    output = tmp_path / "out"
    cut_short(prune(world, output))
    paths = sorted((tmp_path / ".out.partial").rglob(what))
    assert paths
    damage(paths[0])
    said = ressa(*prune(world, output))
    assert said.status == 0
    assert f"{paths[0].name} is damaged" in said.err
    if what != "recipe.json":
        assert "An earlier run finished 2 of 4 blocks" in said.err
    assert contents_but_times(output) == straight
    assert os.listdir(tmp_path) == ["out"]


def flip_all(path):
    path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))


@pytest.mark.parametrize("method", ["sparsegpt"], indirect=True)
@pytest.mark.parametrize("damage", [os.unlink, empty, flip_all])
def test_blocks_whose_weights_are_damaged_in_the_shards_are_done_again(
    ressa, prune, world, straight, cut_short, tmp_path, damage
):
    output = tmp_path / "out"
    cut_short(prune(world, output))
    (shard,) = (tmp_path / ".out.partial" / "streamed").glob("model.safetensors")
    damage(shard)
    said = ressa(*prune(world, output))
    assert said.status == 0, said.err
    assert "model.safetensors is damaged" in said.err
    assert contents_but_times(output) == straight


@pytest.mark.parametrize("part", ["multi_modal_projector", "norm", "embed_tokens"])
def test_work_of_a_model_that_has_changed_since_is_refused_and_dropped_by_force(
    ressa, prune, world, cut_short, tmp_path, part
):
    source = tmp_path / "model"
    shutil.copytree(world.llava, source)

    def words(output):
        return [source if word == world.llava else word for word in prune(world, output)]

    cut_short(words(tmp_path / "out"))
    (file,) = source.glob("*.safetensors")
    tensors = load_file(file)
    changed = {name: tensor * 1.5 for name, tensor in tensors.items() if part in name}
    assert changed
    save_file(tensors | changed, file, {"format": "pt"})
    said = ressa(*words(tmp_path / "out"))
    assert said.status == 2
    assert "unfinished work of another" in said.sentence
    assert ressa(*words(tmp_path / "out"), "--force").status == 0
    assert ressa(*words(tmp_path / "fresh")).status == 0
    assert contents_but_times(tmp_path / "out") == contents_but_times(tmp_path / "fresh")


def test_a_run_that_goes_on_says_from_where(ressa, prune, world, straight, cut_short, tmp_path):
    cut_short(prune(world, tmp_path / "out"))
    said = ressa(*prune(world, tmp_path / "out"))
    assert "An earlier run finished 3 of 4 blocks: going on from there." in said.err
    assert contents_but_times(tmp_path / "out") == straight


def test_unfinished_work_is_not_mixed_with_another_recipe_s_nor_lost_to_it(
    ressa, prune, world, straight, cut_short, tmp_path
):
    output = tmp_path / "out"
    cut_short(prune(world, output))
    said = ressa(*prune(world, output, "--method", "magnitude"))
    assert said.status == 2
    assert "begun with another recipe (method)" in said.sentence
    assert ressa(*prune(world, output)).status == 0
    assert contents_but_times(output) == straight

    cut_short(prune(world, tmp_path / "other", "--method", "magnitude"))
    assert ressa(*prune(world, tmp_path / "other", "--force")).status == 0
    assert contents_but_times(tmp_path / "other") == straight


def test_a_forced_run_that_was_cut_short_goes_on_too(ressa, prune, world, straight, cut_short, tmp_path):
    output = tmp_path / "out"
    assert ressa(*prune(world, output, "--method", "magnitude")).status == 0
    cut_short(prune(world, output, "--force"))
    assert "finished 3 of 4" in ressa(*prune(world, output, "--force")).err
    assert contents_but_times(output) == straight


def test_work_whose_result_is_there_is_cleared(ressa, prune, world, cut_short, tmp_path):
    """As after a kill between the two."""
    output = tmp_path / "out"
    cut_short(prune(world, output))
    shutil.copytree(tmp_path / ".out.partial", tmp_path / "copy")
    assert ressa(*prune(world, output)).status == 0
    (tmp_path / "copy").rename(tmp_path / ".out.partial")
    assert "already" in ressa(*prune(world, output)).out
    assert os.listdir(tmp_path) == ["out"]


def test_a_block_of_another_run_is_refused_wherever_it_comes_from(ressa, prune, world, cut_short, tmp_path):
    cut_short(prune(world, tmp_path / "a"))
    cut_short(prune(world, tmp_path / "b", "--method", "magnitude"))
    (ours, *_) = (tmp_path / ".a.partial").rglob("*layers.0*.safetensors")
    (block, *_) = (tmp_path / ".b.partial").rglob("*layers.0*.safetensors")
    shutil.copy(block, ours)
    said = ressa(*prune(world, tmp_path / "a"))
    assert "unfinished work of another recipe" in said.sentence
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("command", ["prune", "repair", "sweep", "demo"])
def test_a_second_run_into_the_same_output_is_told_who_holds_it(ressa, world, tmp_path, command):
    output = tmp_path / "out"
    model = [] if command == "demo" else [world.llava]
    with holder(output) as process:
        said = ressa(command, *model, "--output", output)
    assert said.status == 1
    assert f"process {process.pid}" in said.sentence
    assert not output.exists()


def test_an_error_of_the_data_leaves_finished_work(ressa, prune, world, straight, cut_short, tmp_path):
    shutil.copytree(world.data, tmp_path / "data")
    arguments = [tmp_path / "data" if word == world.data else word for word in prune(world, tmp_path / "out")]
    cut_short(arguments)
    pictures = tmp_path / "data" / "images"
    pictures.rename(tmp_path / "elsewhere")
    assert ressa(*arguments).status == 2
    (tmp_path / "elsewhere").rename(pictures)
    assert "finished 3 of 4" in ressa(*arguments).err


def test_a_model_that_was_written_since_is_told(ressa, prune, world, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(world.llava, source)
    arguments = [source if word == world.llava else word for word in prune(world, tmp_path / "out")]
    assert ressa(*arguments).status == 0
    assert "was written after" not in ressa(*arguments).err
    later = (tmp_path / "out" / "ressa.json").stat().st_mtime + 10
    (weights,) = source.glob("*.safetensors")
    os.utime(weights, (later, later))
    said = ressa(*arguments)
    assert said.status == 0
    assert "was written after" in " ".join(said.err.split())


def test_a_file_is_never_replaced_by_a_folder(ressa, prune, world, tmp_path):
    (tmp_path / "letter").write_text("dear")
    said = ressa(*prune(world, tmp_path / "letter", "--force"))
    assert said.status == 2
    assert "is a file" in said.sentence
    assert (tmp_path / "letter").read_text() == "dear"


@pytest.mark.parametrize("above", [0, 1])
def test_the_folder_one_stands_in_is_never_replaced(ressa, prune, world, tmp_path, monkeypatch, above):
    here = tmp_path / "parent" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    said = ressa(*prune(world, (here, here.parent)[above], "--force"))
    assert said.status == 2
    assert "the folder you are in" in said.sentence


def test_a_result_goes_where_a_link_leads(ressa, prune, world, straight, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    for more in ([], ["--force"]):
        assert ressa(*prune(world, tmp_path / "out", *more)).status == 0
        assert (tmp_path / "out").is_symlink()
        assert contents_but_times(tmp_path / "disk" / "out") == straight
    assert sorted(os.listdir(tmp_path)) == ["disk", "out"]
    assert os.listdir(tmp_path / "disk") == ["out"]


def test_where_the_disk_is_full_work_is_kept(ressa, prune, method, world, straight, tmp_path):
    output = tmp_path / "out"
    with files_of_at_most(100_000):
        said = ressa(*prune(world, output))
    assert said.status == 1
    assert "no room left" in said.sentence
    assert os.listdir(tmp_path) == [".out.partial"]
    again = ressa(*prune(world, output))
    finished = "An earlier run finished" in again.err
    assert finished == (
        method == "wanda"
    )  # a shard of weights is as long as it will be from the first block on
    assert contents_but_times(output) == straight


def test_a_result_that_is_there_is_shown_where_nothing_can_be_written(
    ressa, prune, world, straight, tmp_path
):
    output = tmp_path / "out"
    assert ressa(*prune(world, output)).status == 0
    with files_of_at_most(0):
        assert ressa(*prune(world, output)).status == 0
        assert "cannot be written" in ressa(*prune(world, output, "--force")).sentence
        assert "another recipe" in ressa(*prune(world, output, "--seed", 1)).sentence
    assert contents_but_times(output) == straight


def test_room_and_right_to_write_are_looked_for_before_the_work(ressa, prune, world, tmp_path, monkeypatch):
    monkeypatch.setattr("ressa.checkpoint.size_of", lambda _: 2**61, raising=False)
    said = ressa(*prune(world, tmp_path / "out"))
    assert said.status == 2
    assert "make room" in said.sentence
    assert "Pruning" not in said.err
    (tmp_path / "file").touch()
    said = ressa(*prune(world, tmp_path / "file" / "out"))
    assert said.status == 2
    assert "Not a directory" in said.sentence
    assert os.listdir(tmp_path) == ["file"]
