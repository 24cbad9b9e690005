"""`ressa evaluate`: a model's scores on the tasks of a dataset folder."""

from ressa.checkpoint import find
from ressa.commands.inputs import find_data, find_dtype
from ressa.commands.outcome import Outcome
from ressa.files import write_json
from ressa.recipe import EvaluateRecipe
from ressa.report import scores_table
from ressa.warned import recorded


def run_evaluate(recipe: EvaluateRecipe) -> Outcome:
    """Evaluate; the scores go, with the model's sparsity and the recipe, to a JSON file if one is named."""
    find(recipe.model)
    folder = find_data(recipe.data)
    # What is wrong up to here is told before PyTorch is imported.
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import load, measure
    from ressa.device import find_device
    from ressa.evaluation import evaluate
    from ressa.fast_dtype import in_fast_dtype

    device = find_device(recipe.device)
    vlm = load(recipe.model, dtype=find_dtype(recipe.dtype))
    with recorded() as said, in_fast_dtype(vlm.model, device=device, asked=recipe.dtype):
        result = evaluate(
            vlm,
            folder,
            recipe.tasks,
            split=recipe.split,
            limit=recipe.limit,
            batch_size=recipe.batch_size,
            beams=recipe.beams,
            seed=recipe.seed,
            pool=recipe.pool,
            device=device,
        )
    sparsity = measure(vlm.model, find_anatomy(vlm.model))
    data = {
        "model": recipe.model,
        **result,
        "sparsity": sparsity,
        "recipe": recipe.identity(),
        "warnings": said,
    }
    if recipe.output is not None:
        write_json(recipe.output, data)
    return Outcome(data, [scores_table(data, recipe.model)])
