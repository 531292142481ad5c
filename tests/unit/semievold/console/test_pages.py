"""What the pages say, of states of every kind, and of texts that want to be more than text."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import quote

import pytest
from sqlalchemy import Connection

from semievol.types import CandidateAnswer, Query
from semievold.console.pages import ago, seconds, significant
from semievold.round_states import RoundState as S
from semievold.serving.attestation import Attestation
from semievold.serving.replica import ReplicaView
from semievold.store.lineage.walk import Descendants, LineageStore, Reached
from semievold.store.pseudo_labels import NewLabel, query_hash
from tests.console_browser import PAGES, Browser
from tests.control_roles import Roles
from tests.control_world import ControlWorld, OpenWorld
from tests.scripted import pseudo_label

HOSTILE = "<script>alert('x')</script><b>&amp;\"'\u202egnp.exe\x1b[31m\u0000{{ 7 * 7 }}"
HOSTILE_ID = 'a/../b?c="><img src=x onerror=alert(1)>&d=é #1'


async def promoted(world: ControlWorld) -> str:
    """A warm round is promoted; its version."""
    world.teach()
    world.here.start()
    return str((await world.ended(0)).adapter)


async def test_every_page_of_a_state_that_is_empty_says_what_is_to_come(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        browser = await Browser.logged_in(client)
        first = await browser.reads("/")
        assert "the base model" in first
        assert "nothing has been promoted yet" in first
        assert "It waits for: " in first
        assert "No round has met its gate yet" in first
        assert "No round has begun yet" in await browser.reads("/rounds")
        assert "No query has been answered yet" in await browser.reads("/queries")
        assert "Nothing has been trained yet" in await browser.reads("/adapters")
        assert "The model answers in the daemon's process" in await browser.reads("/replicas")


async def test_the_first_page_says_what_serves_since_when_and_why(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    name = await promoted(world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        first = await browser.reads("/")
        assert re.search(rf"{name} As w since 2023-11-14 \d\d:\d\d:\d\d UTC, (just now|.* ago)", first)
        assert "Round 0 was promoted: 18 wins and 0 losses on 30 labels that it had never seen" in first
        assert "It waits for: 0 of 10 new pseudo-labels" in first
        answered = await browser.follows("/do/rollback")
        assert "Done: rollback, from" in answered
        assert "A person asked for it (rollback to the base model)" in answered
        assert "Serves now the base model" in answered


async def test_a_round_that_is_proving_shows_its_evidence_and_what_it_needs(open_world: OpenWorld) -> None:
    world = open_world(gate={"patience_s": 3600.0}, rollout={"approval": "required", "watch_s": 0.0})
    world.teach()
    world.here.start()
    await world.reaches(0, S.PROVING)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        first = await browser.reads("/")
        assert "18 wins, 0 losses on 30 labels" in first
        assert "Proved; it waits for a person's word." in first
        assert 'aria-current="step"><span>proving' in await browser.opens("/")
        detail = await browser.reads("/rounds/0")
        assert "Promote: better" in detail or "Promote:" in detail
        assert "served weights answer as the trained ones" in detail


async def test_a_pseudo_label_shows_its_neighbours_candidates_and_rounds(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    await promoted(world)
    world.ask(range(40, 52))
    await world.ended(1)
    label = replace(
        pseudo_label("q-1", "is 7 odd?", "odd", 0.25),
        neighbours=(("e1", 0.875), ("gone", 0.5)),
        candidates=(
            CandidateAnswer("greedy", "it is odd", "odd", 0.25),
            CandidateAnswer("hot", "??", None, float("inf")),
        ),
    )
    world.stores.pseudo_labels.add([NewLabel(label, query_hash(label.query))])
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        page = await browser.reads("/queries?id=q-1")
        for told in (
            "is 7 odd?",
            "entropy 0.250",
            "greedy odd 0.250 it is odd",
            "hot nothing – ??",
            "0.875 e1 is 1 even?",
        ):
            assert told in page, (told, page)
        assert "gone taken back" in page
        assert "No round has looked at it yet" in page
        assert "Round 1 selected" in await browser.reads("/queries?id=q40")
        assert "has no pseudo-label" in await browser.reads("/queries?id=unknown")


async def test_a_label_shows_all_that_descends_from_it_where_asked(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    name = await promoted(world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        page = await browser.opens("/labels?id=e1")
        assert 'href="?id=e1&amp;descendants=1"' in page
        assert f"Adapters {name}" not in await browser.reads("/labels?id=e1")
        page = await browser.reads("/labels?id=e1&descendants=1")
        assert "e1 training is 1 even? odd" in page
        assert f"Rounds 0 Adapters {name}" in page
        adapter = await browser.reads(f"/adapters/{name}")
        assert "Made from Examples 10: " in adapter
        assert "there is no labelled example 'e77'" in await browser.reads("/labels?id=e77")


@pytest.mark.parametrize("of", ["/rounds/1", "/adapters/{name}", "/labels?id=e1"])
async def test_descendants_are_looked_for_only_where_the_address_asks(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    name = await promoted(world)
    world.ask(range(40, 70))
    await world.ended(1)
    walks: list[str] = []
    whole = LineageStore.made_by

    def seen(store: LineageStore, connection: Connection, reached: Reached) -> Descendants:
        walks.append(of)
        return whole(store, connection, reached)

    monkeypatch.setattr(LineageStore, "made_by", seen)
    address = of.format(name=name)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        page = await browser.reads(address)
        assert "Show all that descends from it" in page
        assert walks == []
        asked = await browser.reads(f"{address}{'&' if '?' in address else '?'}descendants=1")
        assert "Show all that descends from it" not in asked
        assert walks == [of]
        if of == "/rounds/1":
            learned = re.compile(r"Made from Examples .*? Pseudo-labels (\d+: .*?) (?:Labelled by|Went on from) ")
            assert learned.findall(page) == learned.findall(asked) != []


async def test_replicas_are_shown_with_their_proofs(open_world: OpenWorld) -> None:
    world = open_world()
    roles = Roles(world)
    proof = Attestation(True, "as trained", 0.0125, 0.05, 0.01, 0.4, 0.3)
    wrong = Attestation(False, "nearer to the base model than to what was trained", 0.7, 0.05)
    roles.replicas.seen = [
        ReplicaView("http://one:8000", "up", "", 3, {"w-r0000-x": proof}),
        ReplicaView("http://two:8000", "quarantined", "wrong weights", 0, {"w-r0000-x": wrong}),
    ]
    async with roles.api() as client:
        page = await (await Browser.logged_in(client)).reads("/replicas")
        assert "http://one:8000 up 3 requests run on it." in page
        assert "w-r0000-x passed 0.013 0.050 0.400 as trained" in page
        assert "http://two:8000 quarantined wrong weights" in page
        assert "failed 0.700 0.050 – nearer to the base model" in page


async def test_texts_from_outside_are_text_on_every_page(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    await promoted(world)
    query = Query(HOSTILE_ID, HOSTILE)
    label = replace(
        pseudo_label("x", "x", HOSTILE, 0.1),
        query=query,
        neighbours=((HOSTILE_ID, 0.5),),
        candidates=(CandidateAnswer(HOSTILE, HOSTILE, HOSTILE, 0.1),),
        adapter=None,
    )
    world.stores.pseudo_labels.add([NewLabel(label, query_hash(query))])
    world.stores.freezes.freeze(HOSTILE[:150])
    roles = Roles(world)
    roles.replicas.seen = [ReplicaView(HOSTILE, HOSTILE, HOSTILE, 0, {HOSTILE: Attestation(False, HOSTILE)})]
    world.stores.requests.add("start_round", {"reason": HOSTILE[:150].replace("\x00", "").replace("\x1b", "")})
    async with roles.api() as client:
        browser = await Browser.logged_in(client)
        hostile_id = quote(HOSTILE_ID, safe="")
        paths = [
            *PAGES,
            "/rounds/0",
            f"/queries?id={hostile_id}",
            f"/labels?id={hostile_id}",
            "/?request=1",
            "/?span=" + hostile_id,
        ]
        for path in paths:
            text = await browser.opens(path)
            for active in ("<script>alert", "<img src=x", "\u202e", "\x1b", "\x00", ">49<", " 49\n"):
                assert active not in text, (path, active)
        shown = await browser.opens(f"/queries?id={hostile_id}")
        assert "&lt;script&gt;alert(" in shown
        assert "\\u202e" in shown
        for path in (
            "/rounds/%3Cscript%3E",
            "/adapters/%3Cscript%3Ealert(1)",
            f"/adapters/{hostile_id}",
            "/rounds/99999999999999999999999",
        ):
            missing = await client.get(path)
            assert missing.status in (400, 404, 401), path
            assert "<script>alert" not in await missing.text()


async def test_the_first_page_is_small(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    await promoted(world)
    world.ask(range(40, 52))
    await world.ended(1)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        text = await browser.opens("/")
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
        assert len(set(files)) == 4
        sizes = [len(await (await client.get(file)).read()) for file in set(files)]
        assert len(text.encode()) + sum(sizes) <= 100_000


async def test_files_are_kept_by_browsers_until_they_change(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        found = await client.get("/static/htmx.min.js")
        assert found.headers["Cache-Control"].endswith("immutable")
        assert found.headers["Content-Type"].startswith("text/javascript")
        for path in ("/static/nothing", "/static/../console.py", "/static/%2e%2e%2fconsole.py"):
            assert (await client.get(path)).status in (404, 401)
        licence = await (await client.get("/static/htmx.LICENSE.txt")).text()
        assert licence.startswith("Zero-Clause BSD")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (7_260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
        (None, "–"),
    ],
)
def test_durations_have_two_units(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_moments_and_figures_are_words() -> None:
    assert (ago(None, 5.0), ago(4.5, 5.0), ago(1.0, 5.0)) == ("never", "just now", "4 s ago")
    assert [significant(value) for value in (None, 0.12345, 7.0, 1234.5, float("inf"))] == [
        "–",
        "0.123",
        "7",
        "1,234",
        "∞",
    ]
