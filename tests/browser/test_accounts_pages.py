"""Tokens and the audit trail in a real browser, wide and on a phone."""

from __future__ import annotations

import urllib.error
import urllib.request
import uuid

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Mesh, NewPage

pytestmark = [pytest.mark.pages, pytest.mark.timeout(600)]

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def status(mesh: Mesh, token: str) -> int:
    """What the API answers to a reader with this token."""
    request = urllib.request.Request(
        f"{mesh.url}/api/v1/mesh/topics", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def fits(page: Page) -> bool:
    """Whether nothing sticks out at the side."""
    root = "document.documentElement"
    return bool(page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"))


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_token_is_made_copied_used_and_revoked(
    mesh: Mesh, new_page: NewPage, size: dict[str, int]
) -> None:
    name = f"made {uuid.uuid4().hex[:6]}"
    page = new_page(viewport=size, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("link", name="Settings").click()
    assert fits(page)

    page.get_by_text("Make a token").click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Role").select_option("viewer")
    page.get_by_role("button", name="Make token").click()
    page.get_by_role("button", name="Copy").click()
    shown = page.locator("#token-text").inner_text()
    page.wait_for_function("t => navigator.clipboard.readText().then(c => c === t)",
                           arg=shown)  # fmt: skip
    assert fits(page)
    assert status(mesh, shown) == 200

    page.get_by_role("link", name="I have it").click()
    expect(page.get_by_text(shown)).to_have_count(0)
    page.get_by_role("link", name=f"Revoke the token of {name}").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text(f"The token of {name} is revoked")).to_be_visible()
    assert status(mesh, shown) == 401

    page.goto(f"/audit/?target={name}")
    expect(page.locator("tbody tr")).to_have_count(2)
    assert fits(page)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="CSV").click()
    text = waiting.value.path().read_text()
    assert text.count(name) >= 2 and shown not in text


def test_a_viewer_sees_the_settings_and_neither_tokens_nor_trail(
    new_page: NewPage,
) -> None:
    page = new_page("vera")
    page.get_by_role("link", name="Settings").click()

    expect(page.get_by_role("heading", name="Ledgers")).to_be_visible()
    expect(page.get_by_role("heading", name="Tokens")).to_have_count(0)
    expect(page.get_by_role("link", name="Audit trail")).to_have_count(0)
