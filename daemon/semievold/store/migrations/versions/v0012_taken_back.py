"""What descends from a label that was taken back: adapters and rounds, and pseudo-labels that had seen it."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("adapters", sa.Column("unclean", sa.Text(), nullable=True))
    op.add_column("rounds", sa.Column("unclean", sa.Text(), nullable=True))
    op.add_column("pseudo_labels", sa.Column("unclean", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    op.drop_column("pseudo_labels", "unclean")
    op.drop_column("rounds", "unclean")
    op.drop_column("adapters", "unclean")
