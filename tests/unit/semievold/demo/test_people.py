"""Who asks and who labels beside the demo's story: through the API, each in a name of its own, in the queue's order."""

from __future__ import annotations

import asyncio
from typing import Any

from semievol.errors import TransientError
from semievold.demo import customers
from semievold.demo.client import ConflictError, DaemonClient, Reply
from semievold.demo.customers import CUSTOMERS, Customers, Stage
from semievold.demo.people import People
from semievold.demo.support_desk import generate

OLD, NEW = "support-desk-r0000-aaaaaaaa", "support-desk-r0001-bbbbbbbb"


class Queue(DaemonClient):
    """A review queue of these questions; whoever skips one finds that its gate was closed."""

    def __init__(self, *questions: str) -> None:
        self.items = [{"review": f"key-{place}", "question": each} for place, each in enumerate(questions)]
        self.given: list[tuple[str, Any]] = []

    async def get(self, path: str) -> Any:
        assert path == "/v1/review?purpose=gate&limit=50"
        return {"items": self.items}

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        key = path.removeprefix("/v1/review/")
        self.given.append((key, body))
        if "skip" in body:
            raise ConflictError("it is not open any more")
        return {"id": f"label-of-{key}"}


class Gateway(DaemonClient):
    """A daemon whose round 1 is on trial with every other customer, but fails every tenth request."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.questions: list[str] = []
        self.looks = 0

    async def get(self, path: str) -> Any:
        assert path == "/v1/status"
        self.looks += 1
        if self.looks > 50:
            raise asyncio.CancelledError
        return {"round": {"number": 1, "state": "canary"}, "canary": {"share": 0.5, "stage": "1 of 2"}}

    async def ask(self, question: str, user: str | None = None) -> Reply:
        assert user is not None
        self.users.append(user)
        self.questions.append(question)
        if len(self.users) % 10 == 0:
            raise TransientError("busy")
        return Reply("late delivery", NEW if int(user[-1]) % 2 else OLD)


async def test_people_answer_what_they_know_in_the_order_of_the_queue_and_skip_the_rest() -> None:
    queue = Queue("where is it?", "are you hiring?", "my code fails")
    people = People(queue, {"where is it?": "order status", "my code fails": "promo code"})
    assert await people.answer("gate") == 2
    assert queue.given == [
        ("key-0", {"answer": "order status"}),
        ("key-1", {"skip": True}),
        ("key-2", {"answer": "promo code"}),
    ]
    said = people.said["label-of-key-2"]
    assert (said.query.question, said.answer) == ("my code fails", "promo code")


async def test_customers_ask_the_mail_in_turn_and_it_is_kept_which_version_answered_whom(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(customers, "PAUSE_S", 0.0)
    mail = generate(0, 1, 0, 0, mail=50).mail
    gateway = Gateway()
    asking = Customers(gateway, mail)
    task = asyncio.create_task(asking.run())
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(set(gateway.users)) == CUSTOMERS
    assert gateway.questions[:60] == [each.query.question for each in (*mail, *mail[:10])]
    record = asking.record
    assert record.answered + record.failed == len(gateway.users)
    assert record.failed == len(gateway.users) // 10
    (stage,) = record.answered_by
    assert stage == Stage(1, "1 of 2", 0.5)
    assert {name: len(versions) for name, versions in record.answered_by[stage].items()} == dict.fromkeys(
        record.answered_by[stage], 1
    )
    assert record.answered_by[stage]["customer-01"] == {NEW}
