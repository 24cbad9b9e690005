"""What a model is asked: the one place where the prompts live.

QUESTION is that of the evaluations of BLIP-2, InstructBLIP and RESSA (arXiv 2404.02424). CAPTION is ours: RESSA asks
FLAN-T5 for captions with no words and Vicuna with "A short image caption." (docs/paper.md). Others can be given to
`DatasetFolder`, `training_samples` and `evaluate`.
"""

QUESTION = "Question: {} Short answer:"
CAPTION = "A short description:"
CLASS = "a photo of a {}"  # CLIP's (arXiv 2103.00020, §3.1.4)
