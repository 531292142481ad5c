"""Rows of a cache taken apart and put together, so that batches can be joined and parted while they run.

Owns the layout of keys and values while rows move: padding goes in front, masked. Layer by layer, so that no more than
one layer is held twice. For full attention alone (see decoding.can_share): other caches do not leave masked places out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from semievol.engines.decoding import Prefix, Running


def joined(parts: Sequence[Running]) -> Running:
    """One batch of all rows, in order. The parts are used up."""
    first = parts[0]
    if len(parts) == 1:
        return first
    width = max(part.prefix.mask.shape[1] for part in parts)
    missing = [width - part.prefix.mask.shape[1] for part in parts]
    for place, layer in enumerate(first.prefix.cache.layers):
        layers = [part.prefix.cache.layers[place] for part in parts]
        for name in ("keys", "values"):
            wide = [pad(getattr(each, name), (0, 0, lack, 0)) for each, lack in zip(layers, missing, strict=True)]
            for each in layers:
                setattr(each, name, None)
            setattr(layer, name, torch.cat(wide))
    mask = torch.cat([pad(part.prefix.mask, (lack, 0)) for part, lack in zip(parts, missing, strict=True)])
    lengths = torch.cat([part.prefix.lengths for part in parts])
    logits = torch.cat([part.logits for part in parts])
    return Running([row for part in parts for row in part.rows], Prefix(first.prefix.cache, mask, lengths), logits)


def parted(running: Running, size: int) -> list[Running]:
    """Batches of up to `size` rows each, in order. The one given is used up."""
    count = len(running.rows)
    starts = range(0, count, size)
    caches = [running.prefix.cache] + [_shell(running.prefix.cache) for _ in starts[1:]]
    for place, layer in enumerate(running.prefix.cache.layers):
        for name in ("keys", "values"):
            whole = getattr(layer, name)
            for cache, start in zip(caches, starts, strict=True):
                setattr(cache.layers[place], name, whole[start : start + size].clone())
    return [
        trimmed(
            Running(
                running.rows[start : start + size],
                Prefix(cache, running.prefix.mask[start : start + size], running.prefix.lengths[start : start + size]),
                running.logits[start : start + size].clone(),
            )
        )
        for cache, start in zip(caches, starts, strict=True)
    ]


def keep(running: Running, places: Sequence[int]) -> None:
    """Let the rows at other places go, and their part of the cache."""
    chosen = torch.tensor(list(places), device=running.logits.device)
    running.prefix.select(chosen)
    running.logits = running.logits[chosen]
    # Last: where there was no memory for the above, no row is lost; the next step of all of them fails.
    running.rows = [running.rows[place] for place in places]


def trimmed(running: Running) -> Running:
    """Without the places in front that no row uses."""
    used = running.prefix.mask.any(dim=0).nonzero()
    first = int(used[0]) if len(used) else 0
    if first:
        for layer in running.prefix.cache.layers:
            layer.keys = layer.keys[..., first:, :].clone()
            layer.values = layer.values[..., first:, :].clone()
        running.prefix.mask = running.prefix.mask[:, first:]
    return running


def repeated(cache: Any, rows: int) -> Any:
    """A copy of a cache of one row, so many times; the one given stays as it is."""
    fresh = _shell(cache)
    for layer, source in zip(fresh.layers, cache.layers, strict=True):
        layer.keys = source.keys.expand(rows, -1, -1, -1).clone()
        layer.values = source.values.expand(rows, -1, -1, -1).clone()
    return fresh


def _shell(cache: Any) -> Any:
    """A cache of the same kinds of layers, without keys and values."""
    fresh = copy.copy(cache)
    fresh.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in fresh.layers:
        layer.keys = layer.values = None
    return fresh
