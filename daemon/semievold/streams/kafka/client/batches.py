"""How a fetched batch is unpacked and read, so that no record in it can stop its partition or take the memory.

kafka-python unpacks whatever a batch says it holds, and raises for a header whose name is not UTF-8, for ever. Here a
batch that unpacks to more than MAX_UNPACKED_BYTES is read as one record that says so, and such a name is read with
escapes, as values are. Invariant: any other batch is read as kafka-python reads it.
"""

from __future__ import annotations

import zlib
from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch

from semievold.streams.protocol import UNREAD_HEADER

MAX_UNPACKED_BYTES = 64 * 1024 * 1024
"""Of one batch. Producers fill a batch by its unpacked size, as a rule up to 1 MiB, their default of one request."""
_CHUNK_BYTES = 1024 * 1024


class TooMuch(Exception):  # noqa: N818 - named by meaning
    """The batch unpacks to more than is allowed."""


class BoundedBatch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch of format 2, the only one that brokers write since Kafka 0.11."""

    _buffer: Any
    _decompressed: Any
    _pos: Any

    def _maybe_uncompress(self) -> None:
        if self._decompressed:
            return
        try:
            unpacked = _unpacked(self.compression_type, memoryview(self._buffer)[self._pos :], MAX_UNPACKED_BYTES)
        except TooMuch:
            self._next_record_index = max(0, self._num_records - 1)  # one record stands for all
            self._refused = True
            self._buffer, self._pos, self._decompressed = bytearray(), 0, True
            return
        if unpacked is None:
            super()._maybe_uncompress()
        else:
            self._buffer, self._pos, self._decompressed = bytearray(unpacked), 0, True

    def _read_msg(self, *arguments: Any) -> Any:
        if getattr(self, "_refused", False):
            said = (
                f"the batch of offsets {self.base_offset} to {self.last_offset} unpacks to more than "
                f"{MAX_UNPACKED_BYTES} bytes, and none of its records is read; send smaller ones"
            )
            headers = [(UNREAD_HEADER, said.encode())]
            return DefaultRecord(0, self.last_offset, self.max_timestamp, self.timestamp_type, None, b"", headers)
        start = self._pos
        try:
            return super()._read_msg(*arguments)
        except UnicodeDecodeError:
            self._pos, self._buffer = start, _Lenient(self._buffer)
            return super()._read_msg(*arguments)


def bound_batches() -> None:
    """Let every consumer of this process read its batches so; kafka-python has no setting for it."""
    memory_records.DefaultRecordBatch = BoundedBatch


class _Lenient(bytearray):
    """Bytes whose parts are decoded with escapes where they are no UTF-8."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Lenient(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


def _unpacked(codec: int, data: memoryview, most: int) -> bytes | None:
    """The bytes, at most so many; None: not compressed, or by snappy, which makes 20 bytes of one at the most.

    Raises:
        TooMuch: there are more.
    """
    if codec == DefaultRecordBatch.CODEC_GZIP:
        return _gunzipped(data, most)
    if codec == DefaultRecordBatch.CODEC_LZ4:
        from kafka.codec import has_lz4

        if has_lz4():
            return _un_lz4(data, most)
    if codec == DefaultRecordBatch.CODEC_ZSTD:
        from kafka.codec import has_zstd

        if has_zstd():
            return _un_zstd(data, most)
    return None


def _gunzipped(data: bytes | memoryview, most: int) -> bytes:
    parts: list[bytes] = []
    left = most
    while data:
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(data, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise TooMuch
        if not member.eof:
            raise EOFError("the gzip stream has no end")
        data = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _un_lz4(data: memoryview, most: int) -> bytes | None:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError:  # another of the packages that kafka-python knows
        return None
    frame = LZ4FrameDecompressor()
    unpacked: bytes = frame.decompress(data.tobytes(), max_length=most + 1)
    if len(unpacked) > most:
        raise TooMuch
    return unpacked if frame.eof else None


def _un_zstd(data: memoryview, most: int) -> bytes | None:
    try:
        from zstandard import ZstdDecompressor
    except ImportError:
        return None
    parts: list[bytes] = []
    left = most
    with ZstdDecompressor().stream_reader(data.tobytes(), read_across_frames=True) as reader:
        while part := reader.read(_CHUNK_BYTES):
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise TooMuch
    return b"".join(parts)
