"""Datasets of the library `datasets`: parquet files, saved datasets, and by the name of a hub's (here a folder)."""

import io
import json

import pytest
from PIL import Image

from ressa.commands.inputs import find_data
from ressa.data import DatasetFolder, training_samples
from ressa.data.images import open_image
from ressa.errors import UsageError
from ressa.warned import RessaWarning
from tests.data.official import THINGS, captions_of

FEATURES = {
    "caption": {"image": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}},
    "qa": {
        "image": {"_type": "Image"},
        "question": {"dtype": "string", "_type": "Value"},
        "answers": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        "question_id": {"dtype": "int64", "_type": "Value"},
    },
}


def jpeg(number):
    stream = io.BytesIO()
    Image.new("RGB", (24, 20 + number), "red").save(stream, "JPEG")
    return {"bytes": stream.getvalue(), "path": f"{number}.jpg"}


def parquet(folder, splits, kind="caption"):
    """As a hub's repository has it: data/train-00000-of-00001.parquet, its schema naming the features."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for split, numbers in splits.items():
        image = pa.array(
            [jpeg(n) for n in numbers], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
        columns = {"image": image}
        if kind == "caption":
            columns["caption"] = [captions_of(n)[0] for n in numbers]
        else:
            columns["question"] = ["What is it?" for _ in numbers]
            columns["answers"] = [[THINGS[n % 4]] * 10 for n in numbers]
            columns["question_id"] = list(numbers)
        schema = {"huggingface": json.dumps({"info": {"features": FEATURES[kind]}})}
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns).replace_schema_metadata(schema), path)
    return folder


def heights(samples):
    return [open_image(sample.image).height - 20 for sample in samples]


@pytest.fixture
def library():
    return pytest.importorskip("datasets")


def test_parquet_files_are_read_without_a_copy(library, tmp_path):
    data = DatasetFolder(parquet(tmp_path / "set", {"train": range(5), "validation": range(5, 8)}))
    assert data.splits("caption") == ["train", "val"]
    samples = data.samples("caption", "val")
    assert heights(samples) == [5, 6, 7]
    assert samples[0].captions == (captions_of(5)[0],)


def test_questions_of_a_hub_are_questions(library, tmp_path):
    parquet(tmp_path / "lmms-lab" / "OK-VQA", {"validation": range(3)}, "qa")
    name = find_data(f"hub:{tmp_path / 'lmms-lab' / 'OK-VQA'}")
    data = DatasetFolder(name)
    (task,) = data.tasks()
    questions = data.samples(task, "validation")
    assert [question.id for question in questions] == ["0", "1", "2"]
    assert questions[1].answers == ("dog",) * 10
    assert data.choose(task, "auto", ("test", "val")) == "val"


def test_a_drawing_reads_a_streams_beginning_shuffled(library, tmp_path):
    folder = parquet(tmp_path / "set", {"train": range(40)})
    one, same, other = (training_samples(f"hub:{folder}", "train", 5, seed) for seed in (0, 0, 1))
    assert [sample.target for sample in one] == [sample.target for sample in same]
    assert heights(one) != heights(other)
    assert len(set(heights(one))) == 5


def test_a_saved_dataset_is_read_from_its_arrow_files(library, tmp_path):
    source = parquet(tmp_path / "set", {"train": range(3), "test": range(3, 5)})
    library.load_dataset(str(source), cache_dir=str(tmp_path / "cache")).save_to_disk(str(tmp_path / "saved"))
    data = DatasetFolder(tmp_path / "saved")
    assert data.splits("caption") == ["test", "train"]
    assert heights(data.samples("caption", "test")) == [3, 4]


def test_bad_rows_are_named_and_skipped(library, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = parquet(tmp_path / "set", {"train": range(4)})
    (path,) = (folder / "data").iterdir()
    table = pq.read_table(path)
    captions = [captions_of(0)[0], " ", None, captions_of(3)[0]]
    pq.write_table(table.set_column(1, "caption", pa.array(captions)), path)
    with pytest.raises(UsageError, match=r"row\[1\]: the caption is empty"):
        DatasetFolder(folder).samples("caption", "train")
    with pytest.warns(RessaWarning):
        assert len(training_samples(folder, "train", 2, on_bad="skip")) == 2


def test_a_picture_outside_of_the_folder_is_not_read(library, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = parquet(tmp_path / "set", {"train": range(2)})
    (path,) = (folder / "data").iterdir()
    table = pq.read_table(path)
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    cells = [
        {"bytes": None, "path": str(tmp_path / "secret.png")},
        {"bytes": None, "path": "https://example.com/a.jpg"},
    ]
    pq.write_table(table.set_column(0, "image", pa.array(cells, table.schema.field("image").type)), path)
    with pytest.raises(UsageError) as error:
        DatasetFolder(folder).samples("caption", "train")
    assert "leads out of the data folder" in str(error.value)
    assert "https://example.com/a.jpg" in str(error.value)


def test_what_is_no_dataset_is_said(library, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 nothing")
    with (
        pytest.warns(RessaWarning, match="Passed over: .* cannot be opened as a dataset"),
        pytest.raises(UsageError, match="holds no dataset"),
    ):
        DatasetFolder(tmp_path).samples("caption", "train")
    with pytest.raises(UsageError, match="cannot be opened as a dataset"):
        DatasetFolder(f"hub:{tmp_path / 'nowhere'}").samples("caption", "train")


def test_without_the_library_the_way_to_it_is_said(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("ressa.data.formats.hub.find_spec", lambda _: None)
    with (
        pytest.warns(RessaWarning, match=r'pip install "ressa\[datasets\]"'),
        pytest.raises(UsageError, match="holds no dataset"),
    ):
        DatasetFolder(tmp_path).samples("caption", "train")
    with pytest.raises(UsageError, match=r'takes the library datasets: pip install "ressa\[datasets\]"'):
        DatasetFolder("hub:owner/name").samples("caption", "train")
