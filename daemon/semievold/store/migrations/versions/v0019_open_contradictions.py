"""The contradictions that nobody has decided are found, and counted, without the others."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    columns = ["workload", "settled", "created_at", "key"]
    op.create_index("ix_contradictions_open", "contradictions", columns, unique=False)


def downgrade() -> None:
    op.drop_index("ix_contradictions_open", "contradictions")
