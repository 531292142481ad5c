"""Records with what some parser or store chokes on, as bytes of JSON: the same for every entry and for every store."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

VALUES: dict[str, bytes] = {
    "infinite": b"1e999",
    "minus infinite": b"-1e999",
    "infinite by digits": b"1" + b"0" * 400 + b".5",
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "minus zero": b"-0.0",
    "underflow": b"1e-400",
    "largest double": b"1.7976931348623157e308",
    "2**53 + 1": str(2**53 + 1).encode(),
    "2**63 - 1": str(2**63 - 1).encode(),
    "2**63": str(2**63).encode(),
    "2**64": str(2**64).encode(),
    "-2**63 - 1": str(-(2**63) - 1).encode(),
    "400 digits": b"7" * 400,
    "5,000 digits": b"7" * 5_000,
    "NUL": b'"a\\u0000b"',
    "raw NUL": b'"a\0b"',
    "escaped backslash before u0000": b'"a\\\\u0000b"',
    "first half": b'"\\ud800"',
    "second half": b'"x\\udfffy"',
    "whole pair": b'"\\ud83d\\ude00"',
    "noncharacter": '"\uffff\ufdd0"'.encode(),
    "not UTF-8": b'"\xff\xfe"',
    "escape sequence": b'"\\u001b[31mred\\u0007"',
    "line breaks": '"a\\r\\nb\u2028c"'.encode(),
    "decomposed": '"e\u0301"'.encode(),
    "right to left": '"\u202eevil"'.encode(),
    "31 lists": b"[" * 30 + b"]" * 30,
    "33 lists": b"[" * 33 + b"]" * 33,
    "150 objects": b'{"a":' * 150 + b"1" + b"}" * 150,
    "199 lists": b"[" * 199 + b"]" * 199,
    "250 lists": b"[" * 250 + b"]" * 250,
    "5,000 lists": b"[" * 5_000 + b"]" * 5_000,
    "empty key": b'{"": {"": 1}}',
    "key with NUL": b'{"a\\u0000": 1}',
    "key with half a pair": b'{"\\udc00": 1}',
    "equal keys": b'{"a": 1e999, "a": 1}',
    "equal keys, the last infinite": b'{"a": 1, "a": 1e999}',
    "infinite within": b'[{"b": [1, 1e999]}]',
    "long text": b'"' + b"x" * 5_000 + b'"',
    "11,000 numbers": b"[" + b"0," * 10_999 + b"0]",
    "true": b"true",
    "true as text": b'"true"',
    "number as text": b'"1e999"',
    "date": b'"2026-01-31T12:00:00Z"',
    "date beyond": b'"99999-01-01"',
    "milliseconds": b"1700000000000",
    "null": b"null",
    "empty text": b'""',
    "blank": b'" \\t "',
    "empty list": b"[]",
    "empty object": b"{}",
}
FIELDS = (
    "more",
    "",
    "metadata",
    "metadata.score",
    "id",
    "question",
    "messages",
    "messages.content",
    "options",
    "category",
    "source",
    "answer",
    "answers",
    "timestamp",
    "schema_version",
)


def hostile_record(number: int, field: str, value: bytes) -> bytes:
    """A record that is right but for one field; no other record has its id or its question."""
    fields = {
        "id": b'"r%d"' % number,
        "question": b'"is %d even?"' % number,
        "answer": b'"even"',
        "metadata": b'{"channel": "mail"}',
    }
    if field == "metadata.score":
        fields["metadata"] = b'{"score": %s}' % value
    elif field.startswith("messages"):
        del fields["question"]
        turns = b'[{"role": "system", "content": %s}, {"role": "user", "content": "is %d even?"}]' % (value, number)
        fields["messages"] = value if field == "messages" else turns
    else:
        fields[field] = value
    return b"{" + b", ".join(b"%s: %s" % (json.dumps(name).encode(), each) for name, each in fields.items()) + b"}"


def every_record() -> Iterator[bytes]:
    """Each value in each field."""
    for number, (field, value) in enumerate((field, value) for field in FIELDS for value in VALUES.values()):
        yield hostile_record(number, field, value)


def drawn_record(rng: random.Random, number: int) -> bytes:
    """One of those, or a right one, or one that was broken on its way."""
    kind = rng.random()
    if kind < 0.3:
        return hostile_record(number, "category", b'"plain"')
    record = hostile_record(number, rng.choice(FIELDS), rng.choice(list(VALUES.values())))
    if kind < 0.9:
        return record
    broken = bytearray(record)
    for _ in range(rng.randint(1, 4)):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    return bytes(broken[: rng.randint(1, len(broken))]) if kind < 0.93 else bytes(broken)
