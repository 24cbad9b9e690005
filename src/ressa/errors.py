"""The two ways a run can end badly; the command line turns them into exit codes 2 and 1."""


class UsageError(ValueError):
    """The user asked for something that cannot be done. One sentence: what is wrong and what to do."""


class RunError(RuntimeError):
    """The request was fine but the run failed. One sentence: what happened and what to do."""
