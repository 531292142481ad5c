"""A person's word: which versions somebody approved, and whether rounds are frozen."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("adapters", sa.Column("approved_at", sa.Float(), nullable=True))
    op.create_table(
        "freezes",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("workload"),
    )


def downgrade() -> None:
    op.drop_table("freezes")
    op.drop_column("adapters", "approved_at")
