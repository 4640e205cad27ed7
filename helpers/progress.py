"""Tell a workshop which checks of the exercises have passed."""


def record(task: str) -> None:
    """Note for the workshop that a check has passed; nothing happens outside a workshop.

    Parameters
    ----------
    task : str
        Such as ``"05-1"``.
    """
    return None
