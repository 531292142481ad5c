"""Live queries that two versions answer beside each other, and what the watch of a promoted version has found."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rounds", sa.Column("watch", sa.JSON(), nullable=True))
    op.create_table(
        "shadow_pairs",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("query_id", sa.String(length=512), nullable=False),
        sa.Column("query", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("drawn_at", sa.Float(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.Column("incumbent_answer", sa.Text(), nullable=True),
        sa.Column("candidate_answer", sa.Text(), nullable=True),
        sa.Column("differ", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("workload", "number", "key"),
    )
    op.create_index("ix_shadow_pairs_place", "shadow_pairs", ["workload", "number", "place"], unique=False)
    op.create_index("ix_shadow_pairs_query", "shadow_pairs", ["workload", "query_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_shadow_pairs_query", "shadow_pairs")
    op.drop_index("ix_shadow_pairs_place", "shadow_pairs")
    op.drop_table("shadow_pairs")
    op.drop_column("rounds", "watch")
