"""The gateway as real client libraries see it: each call is made to both engines, and the two answers are compared.

`calls` has the calls, which run in environments of their own (`environments`) by `asking`; `verdicts` compares, `table`
writes what was found into docs/gateway.md. `make clients` runs `test_calls.py`; no CI does, for it takes minutes.
"""
