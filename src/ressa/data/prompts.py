"""What a model is asked: the one place where the prompts live.

They are the paper's (RESSA, arXiv 2404.02424); every reader takes another template as an argument.
"""

QUESTION = "Question: {} Short answer:"
CAPTION = "A short description:"
