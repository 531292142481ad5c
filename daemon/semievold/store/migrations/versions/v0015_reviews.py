"""What waits for a person's label, why, and what became of it."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reviews",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("query_id", sa.String(512), nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("query", sa.JSON(), nullable=False),
        sa.Column("candidates", sa.JSON(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("why", sa.JSON(), nullable=False),
        sa.Column("usefulness", sa.Float(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("differing", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("label_by", sa.String(20), nullable=True),
        sa.Column("label_id", sa.String(512), nullable=True),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_reviews_state", "reviews", ["workload", "state", "purpose"])
    op.create_index("ix_reviews_round", "reviews", ["workload", "round"])
    op.create_index("ix_reviews_updated", "reviews", ["workload", "updated_at"])
    op.add_column("contradictions", sa.Column("given_at", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("contradictions", "given_at")
    for name in ("updated", "round", "state"):
        op.drop_index(f"ix_reviews_{name}", "reviews")
    op.drop_table("reviews")
