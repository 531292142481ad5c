"""A version on trial beside the one that serves, and what became of the answers of both."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("aliases", sa.Column("canary", sa.JSON()))
    op.add_column("rounds", sa.Column("canary", sa.JSON()))
    op.create_table(
        "canary_answers",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("adapter", sa.String(200), primary_key=True),
        sa.Column("process", sa.String(32), primary_key=True),
        sa.Column("version", sa.String(20), primary_key=True),
        sa.Column("stage", sa.Integer(), primary_key=True),
        sa.Column("source", sa.String(20), primary_key=True),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("answers", "failed", "timed", "slow", "read", "unparsed")
        ),
        sa.Column("updated_at", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("canary_answers")
    op.drop_column("rounds", "canary")
    op.drop_column("aliases", "canary")
