"""Keep a copy of the MLflow server's database, and put it in the place of one that is damaged."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import sqlite3
from pathlib import Path

BESIDE = ("-journal", "-wal", "-shm")  # files that SQLite keeps beside a database, and that belong to it alone


def keep_copy(database: Path) -> None:
    """Copy a database beside itself if it has changed since the last copy; a reader or writer may be at work.

    Parameters
    ----------
    database : pathlib.Path
        If it is damaged, or there is no room, the copy of before stays.
    """
    copy = copy_of(database)
    new = copy.with_name(f"{copy.name}.{os.getpid()}.new")
    with contextlib.suppress(OSError, sqlite3.Error):
        changed = _changed(database)
        if database.stat().st_size == 0 or copy.exists() and copy.stat().st_mtime_ns == changed:
            return  # SQLite finds nothing wrong with an empty file
        try:
            with (
                contextlib.closing(_open(database, "ro")) as source,
                contextlib.closing(sqlite3.connect(new)) as target,
            ):
                source.backup(target)
            if is_sound(new):
                os.utime(new, ns=(changed, changed))
                new.replace(copy)
        finally:
            new.unlink(missing_ok=True)


def copy_of(database: Path) -> Path:
    """Return where the copy of a database lies.

    Parameters
    ----------
    database : pathlib.Path
        Such as ``mlflow.db``.

    Returns
    -------
    pathlib.Path
        Such as ``mlflow.copy.db``.
    """
    return database.with_name(f"{database.stem}.copy{database.suffix}")


def is_sound(database: Path) -> bool:
    """Tell whether SQLite finds nothing wrong with a file.

    Parameters
    ----------
    database : pathlib.Path
        Nobody may be writing to it.

    Returns
    -------
    bool
        True as well where nothing can be said, because the file is locked or may not be read.
    """
    try:
        with contextlib.closing(_open(database, "rw")) as connection:
            return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


def mend(database: Path) -> str | None:
    """Put the copy in the place of a damaged database; the damaged one is set aside, not deleted.

    Parameters
    ----------
    database : pathlib.Path
        No server has it open.

    Returns
    -------
    str or None
        What happened, in words for the learner; None if nothing was wrong.
    """
    copy = copy_of(database)
    if not database.exists() or is_sound(database) and not (database.stat().st_size == 0 and copy.exists()):
        return None
    aside = database.with_name(f"{database.stem}.damaged-{datetime.datetime.now():%Y-%m-%d-%H%M%S}{database.suffix}")
    for ending in BESIDE:  # first, or SQLite would apply them to the copy
        with contextlib.suppress(FileNotFoundError):
            Path(f"{database}{ending}").replace(f"{aside}{ending}")
    database.replace(aside)
    if not copy.exists() or not is_sound(copy):
        return (
            f"The database of the MLflow server was damaged, and there is no copy: the server begins with an empty "
            f"one. The files in the bucket are still there, and the damaged database is {aside}."
        )
    new = database.with_name(f"{database.name}.new")
    shutil.copyfile(copy, new)
    new.replace(database)
    kept = datetime.datetime.fromtimestamp(copy.stat().st_mtime)
    return (
        f"The database of the MLflow server was damaged. Its copy, with all runs up to {kept:%Y-%m-%d %H:%M:%S}, "
        f"is in its place, and the damaged one is {aside}."
    )


def _open(database: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode={mode}", uri=True, timeout=10)


def _changed(database: Path) -> int:
    """Return when something was last written, to the database or to what SQLite keeps beside it, in ns."""
    times = [database.stat().st_mtime_ns]
    for ending in BESIDE[:2]:
        with contextlib.suppress(FileNotFoundError):
            times.append(Path(f"{database}{ending}").stat().st_mtime_ns)
    return max(times)
