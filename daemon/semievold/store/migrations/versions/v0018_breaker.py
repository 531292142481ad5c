"""What the collapse breaker measured in a round, and room for what it says when it freezes rounds."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rounds", sa.Column("breaker", sa.JSON()))
    with op.batch_alter_table("freezes") as table:
        table.alter_column("reason", existing_type=sa.String(200), type_=sa.Text(), existing_nullable=False)


def downgrade() -> None:
    # PostgreSQL refuses a type that a value is too long for.
    op.execute("UPDATE freezes SET reason = substr(reason, 1, 200)")
    with op.batch_alter_table("freezes") as table:
        table.alter_column("reason", existing_type=sa.Text(), type_=sa.String(200), existing_nullable=False)
    op.drop_column("rounds", "breaker")
