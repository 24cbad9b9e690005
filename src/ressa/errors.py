"""The two ways a run can end badly; the command line turns them into exit codes 2 and 1."""


class UsageError(ValueError):
    """The user asked for something that cannot be done. One sentence: what is wrong and what to do.

    table: lines beneath the sentence, where many things of one kind are wrong at once.
    """

    def __init__(self, sentence: str, table: str = "") -> None:
        super().__init__(f"{sentence}\n{table}" if table else sentence)
        self.sentence = sentence
        self.table = table


class RunError(RuntimeError):
    """The request was fine but the run failed. One sentence: what happened and what to do."""
