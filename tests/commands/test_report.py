"""`ressa report` on an embedded model, and its page in a real browser where there is one."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from ressa import checkpoint
from ressa.commands.made_by import show_recipe
from ressa.commands.prune import run_prune
from ressa.commands.report import lineage, run_report
from ressa.errors import UsageError
from ressa.recipe import PruneRecipe, from_yaml, make_recipe

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chrome", "chromium-browser")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
PHONE, DESK = 390, 1200


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "half"
    run_prune(PruneRecipe(model="embedded-llava", output=folder, method="magnitude", pattern="0.6"))
    return folder


@pytest.fixture(scope="module")
def recipe(pruned, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "report.html"
    values = {"models": [str(pruned)], "output": str(page), "tasks": "vqa", "limit": 2, "looks": 2}
    return make_recipe({"command": "report", **values})


@pytest.fixture(scope="module")
def loaded():
    """Every model that was loaded for the report, in order."""
    return []


@pytest.fixture(scope="module")
def report(recipe, loaded):
    """The page; its making was interrupted once, between the two models."""

    def load(spec, **options):
        if len(loaded) == 1:
            loaded.append("interrupted")
            raise KeyboardInterrupt
        loaded.append(spec)
        return checkpoint.loading.load(spec, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "load", load, raising=False)
        with pytest.raises(KeyboardInterrupt):
            run_report(recipe)
        assert not recipe.output.exists()
        run_report(recipe)
    return recipe.output


def test_a_report_that_was_interrupted_goes_on_with_the_model_that_is_missing(report, loaded, pruned):
    assert loaded == ["embedded-llava", "interrupted", str(pruned)]
    assert [path.name for path in sorted(report.parent.iterdir())] == ["report.html", "report.json"]


def test_the_model_it_was_made_from_stands_beside_it_and_numbers_lie_beside_the_page(report, pruned):
    result = json.loads(report.with_suffix(".json").read_text())
    dense, half = result["models"]
    assert (dense["name"], dense["model"]) == ("dense", "embedded-llava")
    assert (half["name"], half["model"]) == ("pruned", str(pruned))
    assert half["sparsity"]["language"] == pytest.approx(0.6, abs=0.01)
    assert dense["scores"]["tasks"]["vqa"]["score"] > dense["swapped"]["vqa"]
    assert dense["compared"]["occlusion"]["pearson"] == pytest.approx(1)
    assert half["compared"]["occlusion"]["pearson"] < 1
    assert (
        half["looks"]["words"]
        == dense["looks"]["words"]
        == [each["answer"] for each in dense["looks"]["looks"]]
    )
    assert all(question["named"] for question in result["questions"])


def test_the_page_loads_nothing_and_says_what_the_numbers_say(report):
    page = report.read_text(encoding="utf-8")
    result = json.loads(report.with_suffix(".json").read_text())
    assert not re.search(r"https?:|<script|<link|@import", page)
    assert set(re.findall(r"""(?:src=["']|url\()(data:|.{5})""", page)) == {"data:"}
    assert page.count("<svg") == 1
    assert f"{result['models'][1]['scores']['tasks']['vqa']['score']:.1f}" in page
    for question in result["questions"]:
        assert question["question"] in page


def test_a_finished_report_is_only_drawn_again_and_another_one_not_replaced_unasked(report, recipe):
    before = report.with_suffix(".json").stat().st_mtime_ns
    page = report.read_text()
    report.unlink()
    assert "there already" in run_report(recipe).lines[-1]
    assert report.read_text() == page
    assert report.with_suffix(".json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="--force"):
        run_report(recipe.model_copy(update={"seed": 1}))


def test_the_recipe_of_a_report_is_printed(report, recipe):
    for place in (report, report.with_suffix(".json")):
        (printed,) = from_yaml("\n".join(show_recipe(str(place)).lines))
        assert printed.models == ("embedded-llava", *recipe.models)  # what stands beside it is named
        assert printed.model_copy(update={"models": recipe.models}) == recipe
    run_report(recipe.model_copy(update={"shown": 1}))
    (printed,) = from_yaml("\n".join(show_recipe(str(report)).lines))
    assert printed.shown == 1
    run_report(recipe)


def test_words_of_the_data_are_no_markup(report, tmp_path):
    from ressa.report.page import page

    result = json.loads(report.with_suffix(".json").read_text())
    result["questions"][0]["question"] = "<script>alert(1)</script>"
    result["models"][1]["blocks"][0][0] = "</svg><script>"
    result["models"][1]["looks"]["looks"][0]["answer"] = '"><b>'
    made = page(result, [Image.new("RGB", (40, 30), "red")] * 2, 2)
    assert "<script" not in made
    assert "<b>" not in made


def test_models_that_answer_no_questions_and_those_without_attention_have_a_page(report):
    from ressa.report.page import page

    result = json.loads(report.with_suffix(".json").read_text())
    picture = [Image.new("RGB", (40, 30), "red")] * 2
    for each in result["models"]:
        each["looks"]["no_attention"] = "it has none to give"
        for look in each["looks"]["looks"]:
            look["attention"] = None
        del each["compared"]["attention"]
    alone = page(result, picture, 2)
    assert alone.count("it has none to give. Occlusion alone is shown.") == 2
    assert "attention of dense" not in alone
    assert "occlusion of dense" in alone
    for each in result["models"]:
        each |= {"looks": None, "swapped": {}}
        del each["compared"]
    result["questions"] = []
    assert "Where they look" not in page(result, [], 2)


def test_what_is_no_model_is_one_sentence_and_a_lost_ancestor_is_left_out(pruned, tmp_path):
    with pytest.raises(UsageError, match="No such folder"):
        lineage([str(tmp_path / "nothing" / "here")])
    lost = tmp_path / "lost"
    shutil.copytree(pruned, lost)
    manifest = json.loads((lost / "ressa.json").read_text())
    (lost / "ressa.json").write_text(json.dumps(manifest | {"source": str(tmp_path / "gone" / "away")}))
    (alone,) = lineage([str(lost)])
    assert alone.kind == "pruned"
    assert [each.name for each in lineage([str(lost), str(pruned)])] == ["dense", "lost", "half"]


# -- in a browser ----------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


def browse(page: Path, *options: str, width: int, height: int = 1600, dark: bool = False) -> str:
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    size = f"--window-size={width},{height}"
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", scheme, size)
    done = subprocess.run(
        [str(BROWSER), *fixed, *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def told_by(page: Path, expression: str, folder: Path, **how) -> str:
    """What JavaScript finds out about the page: in a copy that allows it to run."""
    copy = folder / "copy.html"
    plain = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    script = f"<script>document.title = 'told:' + JSON.stringify({expression})</script>"
    copy.write_text(plain.replace("</body>", f"{script}</body>"), encoding="utf-8")
    return json.loads(re.search(r"<title>told:(.*?)</title>", browse(copy, "--dump-dom", **how))[1])


def brightness(colour):
    """Relative luminance, WCAG 2."""
    linear = [
        (c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour[:3]
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((brightness(one), brightness(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@needs_browser
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_there_and_can_be_read(report, tmp_path, width, dark):
    shot = tmp_path / "shot.png"
    browse(report, f"--screenshot={shot}", width=width, height=3000, dark=dark)
    with Image.open(shot) as opened:
        seen = opened.convert("RGB")
    assert seen.width == width
    colours = Counter(seen.get_flattened_data() if hasattr(seen, "get_flattened_data") else seen.getdata())
    ground, most = colours.most_common(1)[0]
    assert (brightness(ground) < 0.05) is dark
    assert 0.2 < most / (seen.width * seen.height) < 0.97  # neither blank nor covered
    assert max(contrast(ground, colour) for colour in colours) > 12  # text, as it was drawn
    bright = [colour for colour in colours if max(colour) - min(colour) > 90]
    assert len(bright) > 100  # pictures and maps


@needs_browser
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_lies_beyond_the_edge_of_a_phone(report, tmp_path, width):
    wide, inner = told_by(
        report, "[document.documentElement.scrollWidth, window.innerWidth]", tmp_path, width=width
    )
    assert inner == width
    assert wide <= width


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast(report, tmp_path, dark):
    """WCAG 2 AA: 4.5 to 1, of each text's colour on the ground that it stands on."""
    found = told_by(
        report,
        """[...document.querySelectorAll("body *")].filter(e => [...e.childNodes].some(
             n => n.nodeType === 3 && n.data.trim()) && !["script", "style", "title"].includes(e.localName)).map(e => {
             let at = e, ground = "rgba(0, 0, 0, 0)";
             while (at && ground === "rgba(0, 0, 0, 0)") {
               ground = getComputedStyle(at).backgroundColor; at = at.parentElement }
             const own = getComputedStyle(e);
             return [e instanceof SVGElement ? own.fill : own.color, ground, e.textContent.slice(0, 40)] })""",
        tmp_path,
        width=DESK,
        dark=dark,
    )
    assert len(found) > 50
    for text, ground, words in found:
        one, other = ([float(value) for value in re.findall(r"[\d.]+", colour)] for colour in (text, ground))
        assert contrast(one, other) >= 4.5, words
