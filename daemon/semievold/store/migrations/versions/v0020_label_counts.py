"""What is asked of all pseudo-labels at every look is kept beside them: nobody counts the table any more."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

COUNTED = """
insert into label_counts (workload, labelled, deleted, unparsed)
select workload, sum(labelled), sum(deleted), sum(unparsed) from (
    select workload, count(*) as labelled, 0 as deleted, count(*) - count(answer) as unparsed
    from pseudo_labels group by workload
    union all select workload, pseudo_labels, pseudo_labels, 0 from forgotten
) as counted group by workload
"""
PLACES = """
insert into label_positions (workload, topic, "partition", "offset")
select workload, topic, "partition", max("offset") from pseudo_labels
where topic is not null and "partition" is not null and "offset" is not null group by workload, topic, "partition"
"""


def upgrade() -> None:
    op.create_table(
        "label_counts",
        sa.Column("workload", sa.String(100), primary_key=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("labelled", "deleted", "unparsed")),
    )
    op.create_table(
        "label_positions",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("topic", sa.String(200), primary_key=True),
        sa.Column("partition", sa.Integer(), primary_key=True),
        sa.Column("offset", sa.BigInteger(), nullable=False),
    )
    op.execute(COUNTED)
    op.execute(PLACES)
    op.drop_table("forgotten")
    op.drop_index("ix_pseudo_labels_unparseable", "pseudo_labels")


def downgrade() -> None:
    op.create_table(
        "forgotten",
        sa.Column("workload", sa.String(100), primary_key=True),
        sa.Column("pseudo_labels", sa.BigInteger(), nullable=False),
    )
    op.execute("insert into forgotten select workload, deleted from label_counts where deleted > 0")
    op.drop_table("label_positions")
    op.drop_table("label_counts")
    where = sa.text("answer is null")
    op.create_index(
        "ix_pseudo_labels_unparseable",
        "pseudo_labels",
        ["workload", "created_at"],
        sqlite_where=where,
        postgresql_where=where,
    )
