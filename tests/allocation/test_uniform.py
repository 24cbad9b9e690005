"""A pattern for every tower becomes a pattern for every linear of it."""

import pytest
from families import FAMILIES

from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.errors import UsageError
from ressa.sparsity import NM, Unstructured


def test_each_tower_gets_its_pattern_and_the_rest_stays_dense():
    model = FAMILIES["instructblip-t5"].model()
    anatomy = find_anatomy(model)
    plan = per_tower(anatomy, model, {"vision": NM(2, 4), "connector": None, "language": Unstructured(0.6)})
    assert set(plan) == {*anatomy.linears("vision"), *anatomy.linears("language")}
    assert {plan[name] for name in anatomy.linears("vision")} == {NM(2, 4)}
    assert {plan[name] for name in anatomy.linears("language")} == {Unstructured(0.6)}


@pytest.mark.parametrize(
    ("name", "patterns", "match"),
    [
        ("llava", {"vision": None}, "nothing to prune"),
        ("llava", {}, "nothing to prune"),
        ("llava", {"audio": NM(2, 4)}, "no tower 'audio'"),
        ("blip-vqa", {"connector": NM(2, 4)}, "has no connector"),
        ("llava", {"language": NM(2, 5)}, r"layers\.0\..*2:5.*24 inputs"),
    ],
)
def test_what_cannot_be_planned_is_refused(name, patterns, match):
    model = FAMILIES[name].model()
    with pytest.raises(UsageError, match=match):
        per_tower(find_anatomy(model), model, patterns)
