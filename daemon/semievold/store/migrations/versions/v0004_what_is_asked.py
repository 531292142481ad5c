"""What an example asks, so that copies of one question lie on one side; and to what content an outcome belongs.

The hash is written out here as it was when this revision was made: a migration must not change with the code.
"""

import hashlib
import unicodedata
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

AT_ONCE = 1000


def upgrade() -> None:
    op.add_column("examples", sa.Column("asked", sa.String(length=32), nullable=True))
    op.add_column("round_outcomes", sa.Column("content", sa.String(length=32), nullable=True))
    connection = op.get_bind()
    examples = sa.table(
        "examples", sa.column("workload"), sa.column("id"), sa.column("query", sa.JSON), sa.column("asked")
    )
    rows = connection.execute(sa.select(examples.c.workload, examples.c.id, examples.c.query)).all()
    statement = (
        sa.update(examples)
        .where(examples.c.workload == sa.bindparam("of"), examples.c.id == sa.bindparam("at"))
        .values(asked=sa.bindparam("key"))
    )
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        connection.execute(
            statement, [{"of": workload, "at": identity, "key": asked(query)} for workload, identity, query in some]
        )
    op.create_index("ix_examples_asked", "examples", ["workload", "asked"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_examples_asked", "examples")
    op.drop_column("round_outcomes", "content")
    op.drop_column("examples", "asked")


def asked(query: dict[str, Any]) -> str:
    turns = [(turn["role"], folded(turn["content"])) for turn in query.get("messages") or ()]
    parts = [f"{role}\x1e{content}" for role, content in turns or [("user", folded(query["question"]))]]
    options = sorted(folded(option) for option in query.get("options") or ())
    content = "\x1f".join([*parts, "", *options])
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
