"""What the gateways captured, the feedback that waits for the intake, and answers that clients say are wrong."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "captured",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("query_id", sa.String(length=512), nullable=False),
        sa.Column("content_hash", sa.String(length=32), nullable=False),
        sa.Column("asked", sa.String(length=32), nullable=False),
        sa.Column("client", sa.String(length=64), nullable=False),
        sa.Column("answer_id", sa.String(length=512), nullable=True),
        sa.Column("served", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("workload", "query_id"),
    )
    op.create_index("ix_captured_answer", "captured", ["workload", "answer_id"], unique=False)
    op.create_index("ix_captured_created", "captured", ["workload", "created_at"], unique=False)
    op.create_table(
        "waiting_feedback",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("query_id", sa.String(length=512), nullable=False),
        sa.Column("client", sa.String(length=64), nullable=False),
        sa.Column("content_hash", sa.String(length=32), nullable=False),
        sa.Column("asked", sa.String(length=32), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("against", sa.Boolean(), nullable=False),
        sa.Column("standing", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("workload", "query_id", "client"),
    )
    op.create_index("ix_waiting_feedback_client", "waiting_feedback", ["workload", "standing", "client"], unique=False)
    op.add_column("feedback", sa.Column("against", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("feedback", "against")
    op.drop_index("ix_waiting_feedback_client", "waiting_feedback")
    op.drop_table("waiting_feedback")
    op.drop_index("ix_captured_created", "captured")
    op.drop_index("ix_captured_answer", "captured")
    op.drop_table("captured")
