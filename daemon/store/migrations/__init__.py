"""The schema's history (Alembic); one file per change in `versions`, never edited after a release."""
