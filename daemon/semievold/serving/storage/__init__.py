"""Adapters on object storage: published by control, fetched by whoever loads or reads them."""
