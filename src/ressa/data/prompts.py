"""What a model is asked: the one place where the prompts live.

They are the paper's (RESSA, arXiv 2404.02424). Others can be given to `DatasetFolder`, `training_samples`
and `evaluate`.
"""

QUESTION = "Question: {} Short answer:"
CAPTION = "A short description:"
