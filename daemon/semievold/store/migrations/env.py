"""Run by Alembic: upgrades on the connection that `semievold.store.migrate` hands over, in its transaction."""

from alembic import context

from semievold.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
