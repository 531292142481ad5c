"""Who gets in, which forms count, and what browsers may do."""

from __future__ import annotations

import asyncio
import re

import pytest

from semievold.console.sessions import LASTS_S
from tests.console_browser import PAGES, Browser
from tests.control_roles import TOKEN, Roles
from tests.control_world import OpenWorld


async def test_no_page_is_shown_without_a_login_and_the_login_comes_back_to_it(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        for path in PAGES:
            asked = await client.get(path, allow_redirects=False)  # the token as a header opens no page
            assert (asked.status, asked.headers["Location"].partition("?")[0]) == (303, "/login")
        sent = await client.post("/login", data={"token": TOKEN, "next": "/queries?id=a%2Fb"}, allow_redirects=False)
        assert (sent.status, sent.headers["Location"]) == (303, "/queries?id=a%2Fb")


async def test_the_cookie_is_for_this_site_alone_and_no_script_sees_it(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        sent = await client.post("/login", data={"token": TOKEN}, allow_redirects=False)
        cookie = sent.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path=/" in cookie
        assert "Secure" not in cookie  # over plain HTTP a browser would not keep it
        assert TOKEN not in cookie
        behind = {"X-Forwarded-Proto": "https"}
        sent = await client.post("/login", data={"token": TOKEN}, headers=behind, allow_redirects=False)
        assert "Secure" in sent.headers["Set-Cookie"]


async def test_a_wrong_token_is_refused_and_gives_no_cookie(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        for wrong in ("", "wrong", TOKEN[:-1], TOKEN + "x", "<script>alert(1)</script>"):
            refused = await client.post("/login", data={"token": wrong}, allow_redirects=False)
            assert refused.status == 401
            assert "Set-Cookie" not in refused.headers
            text = await refused.text()
            assert "not the token" in text
            assert "alert(1)" not in text


@pytest.mark.parametrize(
    "next_", ["//elsewhere.example", "https://elsewhere.example", "/\\elsewhere.example", "x", "/\r\nX: y"]
)
async def test_a_login_never_leads_to_another_site(open_world: OpenWorld, next_: str) -> None:
    async with Roles(open_world()).api() as client:
        sent = await client.post("/login", data={"token": TOKEN, "next": next_}, allow_redirects=False)
        assert sent.headers["Location"] == "/"


async def test_a_form_without_the_word_of_its_login_does_nothing(open_world: OpenWorld) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        for word in ("", "wrong", browser.word[:-1]):
            refused = await client.post("/do/freeze", data={"word": word}, allow_redirects=False)
            assert refused.status == 403
        missing = await client.post("/do/freeze", data={"reason": "x"}, allow_redirects=False)
        assert missing.status == 403
        assert world.stores.freezes.get() is None
        as_json = await client.post("/do/freeze", json={"word": browser.word}, allow_redirects=False)
        assert as_json.status == 415
        assert (await browser.sends("/do/freeze")).status == 303
        assert world.stores.freezes.get() is not None


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine, say
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"},
    ],
)
async def test_a_form_of_another_site_is_refused_with_the_right_cookie_and_word(
    open_world: OpenWorld, headers: dict[str, str]
) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        assert (await browser.sends("/do/freeze", headers=headers)).status == 403
        assert world.stores.freezes.get() is None
        login = await client.post("/login", data={"token": TOKEN}, headers=headers, allow_redirects=False)
        assert login.status == 403
        own = {"Sec-Fetch-Site": "same-origin", "Origin": str(client.make_url("/")).rstrip("/")}
        assert (await browser.sends("/do/freeze", headers=own)).status == 303


async def test_a_login_ends_with_its_time_and_by_the_button(open_world: OpenWorld) -> None:
    world = open_world()
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        assert (await client.get("/", allow_redirects=False)).status == 200
        await asyncio.sleep(LASTS_S + 1)  # of the world's clock
        assert (await client.get("/", allow_redirects=False)).status == 303
        browser = await Browser.logged_in(client)
        assert (await browser.sends("/logout")).headers["Location"] == "/login"
        assert (await client.get("/", allow_redirects=False)).status == 303
        part = await client.get("/", headers={"HX-Request": "true"}, allow_redirects=False)
        assert (part.status, part.headers["HX-Redirect"]) == (401, "/login")


async def test_the_cookie_opens_no_address_of_the_api(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        await Browser.logged_in(client)
        for path in ("/v1/status", "/v1/rounds"):
            assert (await client.get(path, headers={"Authorization": ""})).status == 401


async def test_every_answer_forbids_what_the_console_does_not_need(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        await Browser.logged_in(client)
        for path in (*PAGES, "/login", "/static/console.css", "/static/nothing.js", "/rounds/77"):
            headers = (await client.get(path)).headers
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "same-origin"
            assert ("no-store" in headers["Cache-Control"]) is not path.startswith("/static/console")


async def test_pages_have_no_inline_script_or_style_and_load_nothing_from_elsewhere(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        await Browser.logged_in(client)
        for path in (*PAGES, "/login"):
            text = await (await client.get(path)).text()
            assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?! src=\"/static/)", text)
            assert set(re.findall(r'(?:src|href|action)="([a-z]+:|//)', text)) == set()


async def test_a_console_that_is_switched_off_is_not_there(open_world: OpenWorld) -> None:
    world = open_world(api={"console": False})
    async with Roles(world).api() as client:
        assert (await client.get("/")).status == 404
        assert (await client.get("/login")).status == 404


async def test_a_page_that_fails_says_so_and_no_more(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = open_world()
    roles = Roles(world)
    async with roles.api() as client:
        await Browser.logged_in(client)
        monkeypatch.setattr(type(roles.stores.rounds), "all", lambda *_: 1 / 0)
        failed = await client.get("/rounds")
        assert failed.status == 500
        text = await failed.text()
        assert "daemon's log" in text or "daemon&#39;s log" in text
        assert "ZeroDivision" not in text


async def test_who_is_logged_in_gets_a_page_where_there_is_none_and_programs_their_own_words(
    open_world: OpenWorld,
) -> None:
    async with Roles(open_world()).api() as client:
        strangers = await client.get("/rounds/x", headers={"Authorization": ""})
        assert (strangers.status, strangers.content_type) == (401, "application/json")
        browser = await Browser.logged_in(client)
        programs = await client.get("/rounds/x")
        assert (programs.status, programs.content_type) == (404, "application/json")
        nobody = {"Authorization": ""}
        assert (await client.get("/v1/nothing", headers=nobody)).status == 401
        for path in ("/rounds/x", "/nothing", "/do/start", "/static/a/b"):
            missing = await client.get(path, headers=nobody)
            assert (missing.status, missing.content_type) == (404, "text/html"), path
            assert "there is no such page here" in await missing.text()
            assert "default-src 'none'" in missing.headers["Content-Security-Policy"]
        assert await browser.opens("/rounds")
