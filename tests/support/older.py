"""A database as an MLflow of before made it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine, text

OF_2021 = "c48cb773bb87"  # a revision of MLflow's own migrations


def make(url: str) -> None:
    """Make the tables of 2021, with an experiment number 7 that is called "of before"."""
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(url), OF_2021)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO experiments VALUES (7, 'of before', 's3://mlflow/7', 'active')"))
    engine.dispose()


def is_of_today(file: Path) -> bool:
    """Tell whether a database has the tables that the installed MLflow wants."""
    with closing(sqlite3.connect(file)) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    config = _get_alembic_config(f"sqlite:///{file}")
    return revision == ScriptDirectory.from_config(config).get_current_head()
