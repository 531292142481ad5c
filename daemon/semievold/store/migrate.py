"""Alembic, run from the installed package: no ini file, no command line.

Owns finding the migrations and judging the version of a database. `Database.migrate` owns the transaction.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from semievold.errors import SchemaError


def upgrade(connection: Connection) -> None:
    """Run the migrations that the database lacks, inside the caller's transaction.

    Raises:
        SchemaError: the database has a revision that this version of the code does not know.
    """
    config = Config()
    config.set_main_option("script_location", "semievold.store:migrations")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(
            f"the database has schema {current}, which this version does not know (it knows up to "
            f"{scripts.get_current_head()}): a newer semievol has migrated it. Install that version again, or restore "
            "the backup that was taken before the upgrade"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
