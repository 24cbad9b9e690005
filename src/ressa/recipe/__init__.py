"""Everything a run needs, as one validated object; a recipe file is the same object in YAML.

Importing this package costs no PyTorch, so that `ressa --help` is instant.
"""

from ressa.embedded import EMBEDDED
from ressa.recipe.demo import DemoRecipe
from ressa.recipe.evaluate import EvaluateRecipe
from ressa.recipe.fields import DENSE
from ressa.recipe.make import RECIPES, Recipe, make_recipe
from ressa.recipe.prune import PruneRecipe
from ressa.recipe.recipe_file import from_yaml, read_recipes, read_value, to_yaml, write_recipe
from ressa.recipe.repair import RepairRecipe
from ressa.recipe.report import ReportRecipe
from ressa.recipe.sweep import SweepRecipe

__all__ = [
    "DENSE",
    "EMBEDDED",
    "RECIPES",
    "DemoRecipe",
    "EvaluateRecipe",
    "PruneRecipe",
    "Recipe",
    "RepairRecipe",
    "ReportRecipe",
    "SweepRecipe",
    "from_yaml",
    "make_recipe",
    "read_recipes",
    "read_value",
    "to_yaml",
    "write_recipe",
]
