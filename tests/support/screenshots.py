"""Pictures of every page: `python -m tests.support.screenshots`, into var/screenshots.

Wide and phone, light and dark, of a mesh with something of everything. The mesh is one
of its own, in a temporary folder; it is gone afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.support.mesh import BANNER_END, read_until, up
from tests.support.processes import ROOT

SIZES = {
    "wide": {"width": 1440, "height": 900},
    "phone": {"width": 390, "height": 844},
}
THEMES = ("light", "dark")
CHROMIUM = "/usr/bin/chromium"
# What pages of before the live connection show, such as "Connecting", is no picture.
SETTLED = "() => !document.querySelector('#connection:not([data-state=live])')"


def main() -> None:
    """Start a mesh, fill it, take the pictures; says where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "var" / "screenshots")
    parser.add_argument("--only", nargs="*", help="names of pages, such as overview")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        var_dir = Path(folder)
        with up(var_dir, "--agents", "0") as process:
            read_until(process, BANNER_END)
            _pictures(var_dir, options.into, set(options.only or ()))
    print(f"{len(list(options.into.glob('*.png')))} pictures in {options.into}")


def _pictures(var_dir: Path, into: Path, only: set[str]) -> None:
    # Django reads its settings once: they are those of the mesh from here on.
    redis_url = (var_dir / "redis" / "url").read_text().strip()
    env = {"MESH_VAR_DIR": str(var_dir), "REDIS_URL": redis_url}
    os.environ |= {**env, "DJANGO_SETTINGS_MODULE": "meshsite.settings"}
    import django

    django.setup()
    from tests.support.showcase import showcase

    told = json.loads((var_dir / "credentials.json").read_text())
    with showcase(env) as shown, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        pages = {"login": "/login/", **shown.pages()}
        for size, viewport in SIZES.items():
            for theme in THEMES:
                context = browser.new_context(
                    base_url=told["url"],
                    viewport=viewport,
                    color_scheme=theme,  # type: ignore[arg-type]
                    reduced_motion="reduce",
                )
                page = context.new_page()
                for name, path in pages.items():
                    if not only or name in only:
                        _taken(page, path, into / f"{name}-{size}-{theme}.png")
                    if name == "login":
                        _sign_in(page, told)
                context.close()
        browser.close()


def _sign_in(page: Page, told: dict[str, str]) -> None:
    page.goto("/login/")
    page.get_by_label("Name").fill(told["username"])
    page.get_by_label("Password").fill(told["password"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(told["url"])  # not /login/, which ends alike


def _taken(page: Page, path: str, into: Path) -> None:
    page.goto(path)
    page.wait_for_function(SETTLED)
    # The window grows with the page: what sticks to its edges must not stand inside.
    size = page.viewport_size
    assert size is not None
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size(
        {"width": size["width"], "height": max(height, size["height"])}
    )
    page.screenshot(path=into)
    page.set_viewport_size(size)


if __name__ == "__main__":
    main()
