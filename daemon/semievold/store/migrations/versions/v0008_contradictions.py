"""What people and clients say about one question that cannot all be true."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "contradictions",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("asked", sa.String(length=32), nullable=False),
        sa.Column("query_id", sa.String(length=512), nullable=False),
        sa.Column("item", sa.JSON(), nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("workload", "key"),
    )
    op.create_index("ix_contradictions_asked", "contradictions", ["workload", "asked"], unique=False)
    op.create_index("ix_contradictions_due", "contradictions", ["workload", "published", "created_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_contradictions_due", "contradictions")
    op.drop_index("ix_contradictions_asked", "contradictions")
    op.drop_table("contradictions")
