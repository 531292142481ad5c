"""Which replicas sleep while a round trains on their GPU, for every process that lends them."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rests",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("replicas", sa.JSON(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("expected_s", sa.Float()),
        sa.Column("waking", sa.Boolean(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("rests")
