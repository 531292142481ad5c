"""What each round took a pseudo-label for: the answer, and its share in the consensus."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("round_members", sa.Column("answer", sa.Text(), nullable=True))
    op.add_column("round_members", sa.Column("consensus", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("round_members", "consensus")
    op.drop_column("round_members", "answer")
