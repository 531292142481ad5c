"""How far drift was looked for, what its detectors know, and the events that they raised."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drift_positions",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("arming", sa.Integer(), nullable=False),
        sa.Column("query_at", sa.Float(), nullable=False),
        sa.Column("query_id", sa.String(512), nullable=False),
        sa.Column("label_at", sa.Float(), nullable=False),
        sa.Column("label_id", sa.String(512), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
    )
    op.create_table(
        "drift_detectors",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("name", sa.String(700), primary_key=True),
        sa.Column("state", sa.JSON(), nullable=False),
    )
    op.create_table(
        "drift_events",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("category", sa.String(200), nullable=True),
        sa.Column("adapter", sa.String(200), nullable=True),
        sa.Column("actions", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("also", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.Column("closed_by", sa.Text(), nullable=True),
    )
    op.create_index("ix_drift_events_open", "drift_events", ["workload", "closed_at"])


def downgrade() -> None:
    op.drop_table("drift_events")
    op.drop_table("drift_detectors")
    op.drop_table("drift_positions")
