"""The schema's history (Alembic): one file per change in `versions`, in order, never edited after a release.

A change of `semievold.store.tables` needs a new file here, named and numbered after the last one; the test that
compares the migrated schema with the tables says what it has to do.
"""
