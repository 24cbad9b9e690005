"""What a dry run can see: models as their shapes, here or to be fetched, what earlier recipes of a file will have made,
and which files are missing."""

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ressa.checkpoint import find, read_manifest
from ressa.data.folder import AUTO, DatasetFolder
from ressa.data.formats.hub import HUB
from ressa.data.training import MIXTURES, tasks_in, tasks_of
from ressa.embedded import EMBEDDED, is_drawn
from ressa.errors import UsageError
from ressa.recipe import EvaluateRecipe, SweepRecipe
from ressa.recipe.sources import Source
from ressa.warned import recorded

if TYPE_CHECKING:
    from ressa.anatomy import Anatomy
    from ressa.estimating import Outline
    from ressa.evaluation import Drawn

GIB = 2**30


@dataclass(frozen=True)
class Seen:
    """A model on the meta device, its parts and its shapes."""

    model: Any
    anatomy: "Anatomy"
    shape: "Outline"


class Foresight:
    """missing: what is not there → a sentence about it."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self._made: dict[
            str, tuple[str, Mapping[str, Any]]
        ] = {}  # folder → the model it comes from, its plan
        self._seen: dict[str, Seen] = {}
        self._known: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for each key: recipes of one file have much in common."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def will_make(self, output: Path, model: str, plan: Mapping[str, Any]) -> None:
        """An earlier recipe's result: a model of the shapes of `model`, pruned by a plan."""
        self._made[os.path.normpath(output)] = (self.origin(model), plan)

    def origin(self, model: str) -> str:
        """The model whose shapes a result that is not there yet will have; itself, where it is there."""
        made = self._made.get(os.path.normpath(model))
        return model if made is None else made[0]

    def plan(self, model: str) -> Mapping[str, Any]:
        """The layers that are pruned in a result, there or foreseen."""
        made = self._made.get(os.path.normpath(model))
        return read_manifest(model).plan if made is None else made[1]

    def look(self, model: str) -> Seen:
        """The shapes of a model. Raises UsageError if nothing is known of it."""
        name = self.origin(model)
        if name not in self._seen:
            self._seen[name] = self._look(name)
        return self._seen[name]

    def _look(self, name: str) -> Seen:
        place = find(name)
        from ressa.anatomy import find_anatomy
        from ressa.checkpoint import empty_model
        from ressa.checkpoint.known import known_model
        from ressa.estimating import outline
        from ressa.fused import split

        fetched = isinstance(place, Path) or _is_cached(place)
        model = None if fetched else known_model(str(place))
        if model is None:
            model = empty_model(name)
        split(model)
        anatomy = find_anatomy(model)
        seen = Seen(model, anatomy, outline(model, anatomy))
        if not fetched:
            size = seen.shape.size / GIB
            self.missing[name] = f"{name} is not in the cache: {size:.1f} GiB would be fetched from the hub."
        return seen

    def data(self, sources: str | tuple[Source, ...], mixture: str, split: str, order: Sequence[str]) -> None:
        """Note what of a dataset folder, or of several, is missing for samples of a mixture, of each of whose kinds
        one task is enough."""
        if not isinstance(sources, str):
            for source in sources:
                self.data(source.data, source.mixture or mixture, source.split or split, order)
            return
        if not self._is_here(sources):
            return
        groups = (
            [tasks_of(kind) for kind in MIXTURES[mixture]]
            if mixture in MIXTURES
            else [[task] for task in tasks_in(mixture)]
        )
        try:
            there = DatasetFolder(sources)
            for group in groups:
                if not any(there.choose(task, split, order) for task in group):
                    self.missing[f"{sources}:{group}:{split}"] = there.missing(group, split)
        except UsageError as error:
            self.missing[sources] = str(error)

    def asked(self, recipe: EvaluateRecipe | SweepRecipe) -> "Drawn | None":
        """What will be asked, where the data are at hand; no picture is opened. What is missing is noted."""
        if not self._is_here(recipe.data):
            return None
        key = (recipe.data, recipe.tasks, recipe.split, recipe.limit, recipe.pool, str(recipe.asking()))
        return self.once(("asked", key, recipe.seed), lambda: self._draw(recipe))

    def _draw(self, recipe: EvaluateRecipe | SweepRecipe) -> "Drawn | None":
        from ressa.evaluation import draw

        with recorded():
            try:
                drawn = draw(
                    recipe.data,
                    recipe.tasks,
                    split=recipe.split,
                    limit=recipe.limit,
                    pool=recipe.pool or None,
                    seed=recipe.seed,
                    on_bad=recipe.on_bad_sample,
                    follow_links=recipe.follow_links,
                    look=False,
                    **recipe.asking(),
                )
            except UsageError as error:
                self.missing[f"{recipe.data}:{error}"] = str(error)
                return None
        for task in recipe.tasks:
            if task not in drawn.samples:
                where = "" if recipe.split == AUTO else f" in the split {recipe.split}"
                sentence = f"{recipe.data} has nothing for {task}{where}: it will be left out."
                self.missing[f"{recipe.data}:{task}:{recipe.split}"] = sentence
        return drawn

    def _is_here(self, folder: str) -> bool:
        """Whether a dataset is on this machine; one that is not there is noted, and of a hub's nothing is known."""
        if folder == EMBEDDED:
            return is_drawn()
        if folder.startswith(HUB):
            return False
        if not Path(folder).is_dir():
            self.missing[folder] = (
                f"There is no dataset folder {folder} (docs/data.md says what it may hold)."
            )
        return Path(folder).is_dir()


def _is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
