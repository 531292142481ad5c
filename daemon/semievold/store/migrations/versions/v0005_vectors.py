"""The examples' vectors in the state, so that neither a restart nor another process embeds them again.

Empty at first: a vector that is missing is made when an index is opened. With it an index for those who follow changes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "example_vectors",
        sa.Column("workload", sa.String(length=100), nullable=False),
        sa.Column("example_id", sa.String(length=512), nullable=False),
        sa.Column("embedder", sa.Text(), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("content", sa.String(length=32), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("workload", "example_id"),
    )
    op.create_index("ix_examples_changed", "examples", ["workload", "updated_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_examples_changed", "examples")
    op.drop_table("example_vectors")
