"""How many pseudo-labels were deleted: what triggers count with goes on where it was."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "forgotten",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("pseudo_labels", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("forgotten")
