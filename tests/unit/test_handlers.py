"""Handlers: what may be registered, and how one is found by its path."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from bus import errors, handlers
from bus.handlers import Handler, handler, load

MODULE = """
import bus
from bus import handler

def plain(payload, task): return payload

@handler("decorated", max_attempts=2, timeout_s=7, backoff_s=3, concurrency=4)
def decorated(payload, task): return payload

@handler("first", max_attempts=1)
@handler("second", max_attempts=9)
def both(payload, task): return payload

class Tool:
    @staticmethod
    def run(payload, task): return payload
    def method(self, payload, task): return payload

def one_argument(payload): return payload
def three_arguments(payload, task, more): return payload
a_number = 5
"""


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test registers into an empty registry of its own."""
    monkeypatch.setattr(handlers, "registry", {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder somebody stands in; what is imported from it is forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def module(folder: Path) -> str:
    """The name of a module with handlers of every kind."""
    (folder / "mesh_tools.py").write_text(MODULE)
    return "mesh_tools"


def work(payload: Any, task: Any) -> Any:
    return payload


async def aio(payload: Any, task: Any) -> Any:
    return payload


# --- @handler


def test_a_decorated_function_stays_as_it_is() -> None:
    decorated = handler("demo")(work)

    assert decorated is work
    assert handlers.registry["demo"].function is work


def test_options_stand_with_their_handler() -> None:
    handler("demo", max_attempts=2, timeout_s=1.5, backoff_s=0.1, concurrency=8)(work)

    assert handlers.registry["demo"] == Handler("demo", work, 2, 1.5, 0.1, 8, False)


@pytest.mark.parametrize(
    ("function", "cpu", "kind"),
    [(work, False, "thread"), (work, True, "process"), (aio, False, "async")],
)
def test_it_knows_where_a_handler_runs(function: Any, cpu: bool, kind: str) -> None:
    handler("demo", cpu=cpu)(function)

    assert handlers.registry["demo"].kind == kind


def test_the_path_of_a_handler_leads_to_it() -> None:
    handler("demo")(work)

    assert handlers.registry["demo"].path == f"{__name__}:work"


@pytest.mark.parametrize("topic", ["", "No", "a b", "a}{b", "agents", None])
def test_it_refuses_a_handler_of_a_bad_topic(topic: Any) -> None:
    with pytest.raises(errors.InvalidName):
        handler(topic)(work)

    assert handlers.registry == {}


@pytest.mark.parametrize(
    "name", ["max_attempts", "timeout_s", "backoff_s", "concurrency"]
)
@pytest.mark.parametrize("value", [0, -1, True, "5", [], float("nan")], ids=repr)
def test_it_refuses_an_option_that_means_nothing(name: str, value: Any) -> None:
    with pytest.raises(errors.InvalidOption, match=f"^{name}="):
        handler("demo", **{name: value})(work)

    assert handlers.registry == {}


@pytest.mark.parametrize("value", [0.0009, 604_800.1, 1e300])
def test_it_refuses_a_timeout_that_no_attempt_could_have(value: float) -> None:
    said = r"^timeout_s=.* is not 0\.001 s to 7 days"
    with pytest.raises(errors.InvalidOption, match=said):
        handler("demo", timeout_s=value)(work)

    assert handlers.registry == {}


@pytest.mark.parametrize("value", [0.001, 604_800])
def test_it_takes_the_shortest_timeout_and_the_longest(value: float) -> None:
    handler("demo", timeout_s=value)(work)

    assert handlers.registry["demo"].timeout_s == value


@pytest.mark.parametrize("name", ["max_attempts", "concurrency"])
@pytest.mark.parametrize("value", [0.5, 1.5, float("inf")])
def test_it_counts_attempts_and_slots_in_whole_numbers(name: str, value: float) -> None:
    with pytest.raises(errors.InvalidOption, match=name):
        handler("demo", **{name: value})(work)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_attempts", "concurrency"])
def test_a_whole_number_is_kept_as_one(name: str) -> None:
    handler("demo", **{name: 3.0})(work)  # type: ignore[arg-type]

    assert repr(getattr(handlers.registry["demo"], name)) == "3"


@pytest.mark.parametrize(("thing", "what"), [(5, "an int"), ("text", "a str")])
def test_it_says_what_is_no_function(thing: Any, what: str) -> None:
    with pytest.raises(errors.HandlerError) as refusal:
        handler("demo")(thing)

    said = f"the handler of topic 'demo' is {what}, not a function"
    assert str(refusal.value) == said


@pytest.mark.parametrize("thing", [None, 5, "text", object])
def test_it_refuses_what_cannot_be_called_with_payload_and_task(thing: Any) -> None:
    with pytest.raises(errors.HandlerError):
        handler("demo")(thing)

    assert handlers.registry == {}


@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda payload: None,
        lambda payload, task, more: None,
        lambda *, payload, task: None,
    ],
    ids=["none", "one", "three", "by name only"],
)
def test_it_refuses_a_wrong_signature(function: Any) -> None:
    with pytest.raises(errors.HandlerError, match=r"\(payload, task\)"):
        handler("demo")(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda payload, task: None,
        lambda payload, task, extra=1: None,
        lambda *args: None,
        lambda payload, /, task: None,
    ],
    ids=["two", "a default", "any", "positional"],
)
def test_it_takes_every_signature_that_fits(function: Any) -> None:
    handler("demo")(function)

    assert handlers.registry["demo"].function is function


def test_it_refuses_an_async_function_for_a_process() -> None:
    with pytest.raises(errors.HandlerError, match="cpu=True is for sync"):
        handler("demo", cpu=True)(aio)


def test_a_topic_has_one_handler() -> None:
    handler("demo")(work)

    with pytest.raises(errors.HandlerError, match="two handlers.*; give each topic"):
        handler("demo")(aio)

    assert handlers.registry["demo"].function is work


def test_the_same_function_again_is_a_module_imported_again() -> None:
    handler("demo", max_attempts=1)(work)

    handler("demo", max_attempts=2)(work)

    assert handlers.registry["demo"].max_attempts == 2


def test_a_callable_without_a_name_is_a_handler_or_a_sentence() -> None:
    """`functools.partial` has neither __module__ of its own nor __qualname__."""
    partial = functools.partial(lambda extra, payload, task: extra, 1)

    try:
        handler("demo")(partial)
        handler("demo")(partial)
    except errors.HandlerError as refusal:
        assert len(str(refusal)) > 20
    else:
        assert handlers.registry["demo"].path


# --- load


def test_it_loads_a_plain_function_for_a_topic(module: str) -> None:
    found = load(f"{module}:plain", "demo")

    assert found.topic == "demo"
    assert found.function("x", None) == "x"
    assert handlers.registry["demo"] is found


def test_it_loads_a_decorated_function_with_its_topic_and_options(module: str) -> None:
    found = load(f"{module}:decorated", None)

    assert (found.topic, found.max_attempts, found.timeout_s) == ("decorated", 2, 7)


def test_its_own_topic_said_again_changes_nothing(module: str) -> None:
    found = load(f"{module}:decorated", "decorated")

    assert (found.topic, found.max_attempts) == ("decorated", 2)


def test_another_topic_keeps_the_options_of_a_decorated_function(module: str) -> None:
    """Five attempts where its author allowed one would be four too many."""
    found = load(f"{module}:decorated", "elsewhere")

    assert found.topic == "elsewhere"
    assert (found.max_attempts, found.timeout_s) == (2, 7)
    assert (found.backoff_s, found.concurrency) == (3, 4)


@pytest.mark.parametrize(("topic", "attempts"), [("first", 1), ("second", 9)])
def test_a_function_of_two_topics_is_found_under_either(
    module: str, topic: str, attempts: int
) -> None:
    found = load(f"{module}:both", topic)

    assert (found.topic, found.max_attempts) == (topic, attempts)


def test_it_loads_what_lies_inside_a_class(module: str) -> None:
    assert load(f"{module}:Tool.run", "demo").function("x", None) == "x"


def test_it_looks_into_the_folder_one_stands_in(folder: Path) -> None:
    package = folder / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text("async def sell(payload, task): return 1")

    found = load("shop.tasks:sell", "sales")

    assert found.kind == "async"
    assert sys.path[0] == str(folder)  # before whatever is installed
    assert asyncio.run(found.function(None, None)) == 1


def test_a_plain_function_replaces_the_handler_of_its_topic(module: str) -> None:
    handler("demo")(work)

    found = load(f"{module}:plain", "demo")

    assert found.function is not work
    assert handlers.registry["demo"] is found


def test_a_plain_function_needs_a_topic(module: str) -> None:
    with pytest.raises(errors.HandlerError, match="--topic"):
        load(f"{module}:plain", None)


@pytest.mark.parametrize(
    "path",
    ["", ":", "mesh_tools", "mesh_tools:", ":plain", "mesh_tools.plain"],
)
def test_it_says_what_a_path_looks_like(module: str, path: str) -> None:
    with pytest.raises(errors.HandlerError, match="package.module:function") as refusal:
        load(path, "demo")

    assert repr(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("mesh_tools:nothing", "no attribute 'nothing'"),
        ("mesh_tools:Tool.nothing", "no attribute 'nothing'"),
        ("mesh_tools:Tool..run", "mesh_tools:Tool..run"),
        ("mesh_tools:plain:more", "no attribute 'plain:more'"),
        ("mesh_tools:a_number", r"is an int, not a function; name one .* task\)$"),
        ("mesh_tools:one_argument", r"\(payload, task\)"),
        ("mesh_tools:three_arguments", r"\(payload, task\)"),
        ("mesh_tools:Tool.method", r"\(payload, task\)"),
        ("not_here:f", "No module named 'not_here'.*:function, looked up from this f"),
        ("not.here:f", "No module named 'not'"),
        ("mesh_tools.py:plain", "mesh_tools.py"),
        ("../mesh_tools:plain", "cannot be imported"),
        (".mesh_tools:plain", "cannot be imported"),
        ("..:f", "cannot be imported"),
        ("a b:f", "cannot be imported"),
        ("\x00:f", "cannot be imported"),
        ("json:dumps", r"\(payload, task\)"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(module: str, path: str, said: str) -> None:
    with pytest.raises(errors.HandlerError, match=said) as refusal:
        load(path, "demo")

    assert refusal.value.code == "handler_error"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def (\n", "SyntaxError"),
        ("import not_installed\n", "No module named 'not_installed'"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("x = undefined\n", "undefined"),
        ("import os\nos.nothing\n", "nothing"),
        ("\x00", "null bytes"),
    ],
)
def test_a_module_that_does_not_import_says_why(
    folder: Path, body: str, said: str
) -> None:
    (folder / "broken_tools.py").write_text(body)

    with pytest.raises(errors.HandlerError, match=said) as refusal:
        load("broken_tools:f", "demo")

    assert "broken_tools:f" in str(refusal.value)


def test_a_module_that_is_no_utf_8_says_so(folder: Path) -> None:
    (folder / "latin.py").write_bytes(b"name = 'caf\xe9'\ndef f(payload, task): 0\n")

    with pytest.raises(errors.HandlerError, match="latin:f"):
        load("latin:f", "demo")


def test_a_bad_topic_of_a_loaded_handler_is_a_bad_topic(module: str) -> None:
    with pytest.raises(errors.InvalidName, match="topic"):
        load(f"{module}:plain", "Bad Topic")


def test_a_handler_that_cannot_be_loaded_takes_no_other_ones_place(module: str) -> None:
    handler("demo")(work)

    with pytest.raises(errors.HandlerError):
        load(f"{module}:one_argument", "demo")

    assert handlers.registry["demo"].function is work


# --- autodiscovery and time


def test_a_broken_agents_module_of_an_app_is_named(
    folder: Path, settings: Settings
) -> None:
    app = folder / "brokenapp"
    app.mkdir()
    (app / "__init__.py").write_text("")
    (app / "agents.py").write_text("import not_installed")
    sys.path.insert(0, str(folder))
    settings.INSTALLED_APPS = ["brokenapp"]

    with pytest.raises(errors.HandlerError, match="not_installed"):
        handlers.autodiscover()


def test_an_agents_module_that_ends_the_program_ends_nobody_elses(
    folder: Path, settings: Settings
) -> None:
    app = folder / "endingapp"
    app.mkdir()
    (app / "__init__.py").write_text("")
    (app / "agents.py").write_text("import sys\nsys.exit('no key')")
    sys.path.insert(0, str(folder))
    settings.INSTALLED_APPS = ["endingapp"]

    with pytest.raises(errors.HandlerError, match="no key"):
        handlers.autodiscover()


def test_the_agents_module_of_every_app_is_discovered(
    folder: Path, settings: Settings
) -> None:
    app = folder / "shopapp"
    app.mkdir()
    (app / "__init__.py").write_text("")
    (app / "agents.py").write_text(
        "import bus\n@bus.handler('sales')\ndef sell(payload, task): pass\n"
    )
    sys.path.insert(0, str(folder))
    settings.INSTALLED_APPS = ["shopapp"]

    handlers.autodiscover()

    assert handlers.registry["sales"].path == "shopapp.agents:sell"


def test_it_knows_what_to_type_for_an_agent_of_a_topic() -> None:
    handler("demo")(work)

    assert handlers.way_to_serve("demo") == "`manage.py agent --topic demo`"
    assert handlers.way_to_serve("mail") == (
        "`manage.py agent --topic mail --handler package.module:function` "
        "(no installed app has a handler for it)"
    )


def test_who_has_not_looked_for_handlers_does_not_for_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handlers, "_discovered", False)
    monkeypatch.setattr(handlers, "autodiscover", lambda: pytest.fail("it looks"))

    assert handlers.way_to_serve("mail") == (
        "`manage.py agent --topic mail` (with --handler package.module:function "
        "where no installed app has a handler for it)"
    )


@pytest.mark.parametrize(
    ("task_s", "topic_s", "handler_s", "expected_s"),
    [
        (1.0, 2.0, 3.0, 1.0),
        (None, 2.0, 3.0, 2.0),
        (None, None, 3.0, 3.0),
        (None, None, None, 60.0),
    ],
)
def test_the_time_an_attempt_may_take_comes_from_the_nearest(
    task_s: float | None,
    topic_s: float | None,
    handler_s: float | None,
    expected_s: float,
) -> None:
    found = Handler("demo", work, timeout_s=handler_s)

    assert handlers.timeout_of(found, task_s, topic_s) == expected_s


def test_every_error_of_a_handler_path_is_a_sentence(module: str) -> None:
    with pytest.raises(errors.HandlerError) as refusal:
        load("nowhere:f", "demo")

    assert re.search(r"\w+ \w+ \w+ \w+", str(refusal.value))


def test_without_parentheses_it_says_what_to_write() -> None:
    bare: Any = handler

    with pytest.raises(errors.InvalidName, match=r'over work .* @handler\("topic"\)'):
        bare(work)


@pytest.mark.parametrize(
    ("topic", "options"), [("No", {}), ("demo", {"timeout_s": -1})]
)
def test_what_is_wrong_is_told_before_a_function_comes(
    topic: str, options: dict[str, Any]
) -> None:
    with pytest.raises((errors.InvalidName, errors.InvalidOption)):
        handler(topic, **options)
