"""What clients said about answers, apart from what is true: also where it is not used."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("query_id", sa.String(length=512), nullable=False),
        sa.Column("client", sa.String(length=64), nullable=False),
        sa.Column("asked", sa.String(length=32), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("workload", "query_id", "client"),
    )
    op.create_index("ix_feedback_asked", "feedback", ["workload", "asked"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_feedback_asked", "feedback")
    op.drop_table("feedback")
