"""Whatever stands in an annotation file of any dataset, reading it gives samples or one sentence."""

import json
import warnings
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ressa.data import DatasetFolder
from ressa.data.faults import Faults
from ressa.errors import UsageError
from ressa.warned import RessaWarning
from tests.data import official


def coco(folder):
    official.coco(folder, {"val2014": range(3)})
    return official.vqa(folder, {"val2014": range(3)})


def aokvqa(folder):
    official.coco(folder, {"val2017": range(3)})
    return official.aokvqa(folder, {"val": range(3)})


def pope(folder):
    official.coco(folder, {"val2014": range(3)})
    return official.pope(folder, range(3))


LAYOUTS = {
    "coco": (coco, "annotations/captions_val2014.json"),
    "questions": (coco, "v2_OpenEnded_mscoco_val2014_questions.json"),
    "annotations": (coco, "v2_mscoco_val2014_annotations.json"),
    "nocaps": (official.nocaps, "nocaps_val_4500_captions.json"),
    "flickr30k": (official.flickr30k, "dataset_flickr30k.json"),
    "aokvqa": (aokvqa, "aokvqa_v1p0_val.json"),
    "gqa": (official.gqa, "testdev_balanced_questions.json"),
    "vg": (official.genome, "question_answers.json"),
    "regions": (official.genome, "region_descriptions.json"),
    "textvqa": (official.textvqa, "TextVQA_0.5.1_val.json"),
    "vizwiz": (official.vizwiz, "Annotations/val.json"),
    "scienceqa": (official.scienceqa, "problems.json"),
    "splits": (official.scienceqa, "pid_splits.json"),
    "pope": (pope, "coco/coco_pope_random.json"),
    "llava": (official.llava, "llava_v1_5_mix665k.json"),
    "imagefolder": (official.imagefolder, "test/metadata.jsonl"),
}
ODD = st.one_of(
    st.sampled_from(
        [None, True, "", " ", "../x.jpg", "/etc/passwd", "\ud800", "a\0", "x" * 20_000, [], {}, [[]], 7.5]
    ),
    st.integers(-(10**30), 10**30),
    st.text(max_size=20),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers()), max_size=3),
    st.dictionaries(
        st.sampled_from(["answer", "from", "value", "id", "raw"]), st.text(max_size=3), max_size=2
    ),
)


def places(value, path=()):
    """Where values stand in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def replaced(value, path, new, remove):
    if not path:
        return new
    value = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and remove:
        del value[path[0]]
    else:
        value[path[0]] = replaced(value[path[0]], path[1:], new, remove)
    return value


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request, tmp_path_factory):
    make, name = LAYOUTS[request.param]
    folder = make(tmp_path_factory.mktemp(request.param))
    path = folder / name
    plain = path.read_text(encoding="utf-8")
    yield folder, path, plain
    path.write_text(plain, encoding="utf-8")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_odd_value_gives_samples_or_one_sentence(layout, data):
    folder, path, plain = layout
    lines = path.suffix == ".jsonl" or "_pope_" in path.name
    content = [json.loads(line) for line in plain.splitlines()] if lines else json.loads(plain)
    place = data.draw(st.sampled_from(list(places(content))))
    spoiled = replaced(content, place, data.draw(ODD), data.draw(st.booleans()))
    if lines:
        spoiled = spoiled if isinstance(spoiled, list) else [spoiled]
        path.write_text("".join(json.dumps(line) + "\n" for line in spoiled), encoding="utf-8")
    else:
        path.write_text(json.dumps(spoiled), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RessaWarning)
        for part in DatasetFolder(folder).parts:
            for on_bad in ("stop", "skip"):
                faults = Faults(on_bad, folder)
                with suppress(UsageError):
                    found = DatasetFolder(folder, faults=faults).samples(part.task, part.own or part.split)
                    faults.settle()
                    for sample in found:
                        assert sample.prompt or sample.target
                        assert all(
                            picture.resolve().is_relative_to(folder.resolve()) for picture in sample.images
                        )
