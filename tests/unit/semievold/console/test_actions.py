"""What the buttons do, by a browser without scripts, before a real controller."""

from __future__ import annotations

from semievold.round_states import RoundState as S
from tests.console_browser import Browser
from tests.control_roles import Roles
from tests.control_world import ControlWorld, OpenWorld


async def begun(open_world: OpenWorld) -> ControlWorld:
    world = open_world(gate={"patience_s": 3600.0}, rollout={"approval": "required", "watch_s": 0.0})
    world.teach()
    world.here.start()
    await world.reaches(0, S.PROVING)
    return world


async def test_a_round_is_approved_and_its_version_serves(open_world: OpenWorld) -> None:
    world = await begun(open_world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        answered = await browser.follows("/do/approve", round=0)
        assert "Done: approve round" in answered
        settled = await world.ended(0)
        assert world.stores.alias.get().adapter == settled.adapter
        first = await browser.reads("/")
        assert "A person approved it" in first


async def test_a_round_is_refused_with_the_reason_that_was_given(open_world: OpenWorld) -> None:
    world = await begun(open_world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        assert "Done: refuse round" in await browser.follows("/do/refuse", round=0, reason="too eager")
        assert (await world.ended(0)).state is S.REJECTED
        assert "too eager" in await browser.reads("/rounds/0")


async def test_a_round_is_started_and_cancelled(open_world: OpenWorld) -> None:
    world = await begun(open_world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        refused = await browser.follows("/do/start", kind="evolve")
        assert "Refused: start round: " in refused
        assert "Done: cancel round" in await browser.follows("/do/cancel", round=0)
        assert (await world.ended(0)).state is S.CANCELLED
        assert "Done: start round, round 1" in await browser.follows(
            "/do/start", kind="warm", reason="a drill", shuffle="yes"
        )
        assert world.round(1).trigger == "a drill"
        assert world.round(1).options["shuffle_labels"] is True


async def test_rounds_are_frozen_and_thawed(open_world: OpenWorld) -> None:
    world = await begun(open_world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        assert "Frozen just now : odd figures. No round starts" in await browser.follows(
            "/do/freeze", reason="odd figures"
        )
        assert world.stores.freezes.get() is not None
        assert "odd figures" not in await browser.follows("/do/thaw")
        assert world.stores.freezes.get() is None


async def test_a_version_is_promoted_by_hand_and_rolled_back(open_world: OpenWorld) -> None:
    world = await begun(open_world)
    name = str(world.round(0).adapter)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        await browser.follows("/do/approve", round=0)
        await world.ended(0)
        assert "Done: rollback" in await browser.follows("/do/rollback")
        assert world.stores.alias.get().adapter is None
        assert f"Done: promote, to {name}" in await browser.follows("/do/promote", adapter=name)
        assert world.stores.alias.get().adapter == name


async def test_a_label_is_taken_back_with_what_descends_from_it(open_world: OpenWorld) -> None:
    world = await begun(open_world)
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        answer = await browser.sends("/do/retract", id="e1")
        page = await answer.text()
        assert answer.status == 200, page
        assert "Label taken back" in page
        assert world.stores.examples.get("e1") is None
        assert world.round(0).unclean == "e1"
        assert "taken back" in await browser.reads("/labels?id=e1")
        assert (await browser.sends("/do/retract", id="e77")).status == 409
        assert (await browser.sends("/do/retract", id="")).status in (400, 409)


async def test_fields_that_say_nothing_are_named(open_world: OpenWorld) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        for path, fields, told in (
            ("/do/approve", {}, "round: give the number of a round"),
            ("/do/cancel", {"round": "²"}, "round: give the number of a round"),
            ("/do/refuse", {"round": "9" * 30}, "round: give the number of a round"),
            ("/do/start", {"kind": "other"}, "start_round: field"),
            ("/do/promote", {"adapter": "../x"}, "promote: field"),
            ("/do/freeze", {"reason": "x" * 201}, "freeze: field"),
        ):
            refused = await browser.sends(path, **fields)
            assert refused.status == 400, path
            assert told in (await refused.text()).replace("&#39;", "'"), path
        assert world.stores.requests.pending() == []
        assert world.stores.freezes.get() is None


async def test_a_request_that_nobody_answers_is_shown_as_asked(open_world: OpenWorld) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        assert "Asked: rollback. No controller has answered yet" in await browser.follows("/do/rollback")
        assert "Asked" not in await browser.reads("/?request=77")
        assert "Asked" not in await browser.reads("/?request=x")
