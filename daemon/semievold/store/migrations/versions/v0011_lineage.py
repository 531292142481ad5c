"""What each pseudo-label and each round was made from, and what descends from a label that was taken back."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pseudo_label_history", sa.Column("neighbours", sa.JSON(), nullable=True))
    op.add_column("round_members", sa.Column("revision", sa.Integer(), nullable=True))
    op.add_column("round_members", sa.Column("depth", sa.Integer(), nullable=True))
    op.create_table(
        "round_examples",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("example_id", sa.String(length=512), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("workload", "number", "example_id"),
    )
    op.create_index("ix_round_examples_example", "round_examples", ["workload", "example_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_round_examples_example", "round_examples")
    op.drop_table("round_examples")
    op.drop_column("round_members", "depth")
    op.drop_column("round_members", "revision")
    op.drop_column("pseudo_label_history", "neighbours")
