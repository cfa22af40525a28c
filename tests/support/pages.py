"""The dashboard as people use it: signed-in clients, and pages looked at closely."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.http import HttpResponse
from django.test import Client

from bus import accounts

PASSWORD = "correct-horse-7"
_VOID = frozenset(("br", "hr", "img", "input", "link", "meta", "wbr"))
# Elements of SVG that are closed as they are opened.
_ALONE = frozenset(("polyline", "path", "circle"))


def user(name: str, role: str) -> Any:
    """A user with a role, or without any for an empty one."""
    if role:
        return accounts.ensure_user(name, role, PASSWORD)
    return get_user_model().objects.create_user(name, password=PASSWORD)


def signed_in(role: str, **options: Any) -> Client:
    """A browser of somebody named after this role; hashing no password is quicker."""
    own, _ = get_user_model().objects.get_or_create(username=role or "nobody")
    if role:
        own.groups.set([Group.objects.get(name=role)])
    client = Client(**options)
    client.force_login(own)
    return client


@dataclass
class Seen:
    """What a parser saw of a page, and what is wrong with it."""

    wrong: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    title: str = ""
    lang: str = ""
    ids: list[str] = field(default_factory=list)
    labelled: set[str] = field(default_factory=set)
    fields: list[dict[str, str | None]] = field(default_factory=list)
    forms: list[dict[str, str | None]] = field(default_factory=list)
    text: str = ""


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen = Seen()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found, seen = dict(attrs), self.seen
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            seen.wrong.append(f"<{tag}> has an attribute twice")
        if tag not in _VOID and tag not in _ALONE:
            self._open.append(tag)
        if "style" in found or any(name.startswith("on") for name in names):
            seen.wrong.append(f"<{tag}> has an inline style or handler")
        if tag == "style":
            seen.wrong.append("a style element")
        is_data = found.get("type") == "application/json"
        if tag == "script" and not found.get("src") and not is_data:
            seen.wrong.append("an inline script")
        for name in ("src", "href", "action"):
            if re.match(r"(?i)(https?:)?//|javascript:|data:", found.get(name) or ""):
                seen.wrong.append(f"<{tag}> leads to {found[name]}")
        if tag == "h1":
            seen.headings.append("")
        if tag == "html":
            seen.lang = found.get("lang") or ""
        if found.get("id"):
            seen.ids.append(str(found["id"]))
        if tag == "label" and found.get("for"):
            seen.labelled.add(str(found["for"]))
        if tag in ("input", "select", "textarea") and found.get("type") != "hidden":
            seen.fields.append(found)
        if tag == "form":
            seen.forms.append(found)
        if tag == "img" and "alt" not in found:
            seen.wrong.append("an image without alt")

    def handle_endtag(self, tag: str) -> None:
        if tag in _ALONE:
            return
        if not self._open or self._open[-1] != tag:
            self.seen.wrong.append(f"</{tag}> closes {self._open[-1:]}")
        elif self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["title"]:
            self.seen.title += data
        if "h1" in self._open:
            self.seen.headings[-1] += data
        if self._open[-1:] not in (["script"], ["style"]):
            self.seen.text += data

    def done(self) -> Seen:
        """Everything, checked as a whole."""
        seen = self.seen
        if self._open:
            seen.wrong.append(f"left open: {self._open}")
        if len(list(filter(str.strip, seen.headings))) != 1:
            seen.wrong.append(f"headings of the first level: {seen.headings}")
        if not seen.title.strip() or not seen.lang:
            seen.wrong.append("no title or no language")
        if len(seen.ids) != len(set(seen.ids)):
            seen.wrong.append("an id twice")
        for each in seen.fields:
            if each.get("id") not in seen.labelled and not each.get("aria-label"):
                seen.wrong.append(f"a field without label: {each}")
        return seen


def looked_at(response: HttpResponse) -> Seen:
    """The page, parsed; an AssertionError names whatever is wrong with it."""
    parser = _Parser()
    parser.feed(response.content.decode())
    parser.close()
    seen = parser.done()
    assert seen.wrong == []
    return seen
