"""Why a task is not running, in one sentence, with when it will be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from . import (
    agents,
    handlers,
    history,
    keys,
    lived,
    lookup,
    messages,
    pace,
    scripts,
    words,
)
from .conf import conf
from .messages import Task
from .topics import READER_MS

# Tasks that are counted: each is read for it. Who has just sent one looks from the end.
_AHEAD_MOST: Final = 500
_BEHIND_MOST: Final = 250
_LATE_S: Final = 3.0  # a due task has waited so long that nobody sees to it
_AT_WORK: Final = ("live", "idle")
# Why agents in another state take nothing: one of them, several.
_AWAY: Final = {
    "late": ("it missed its last beats", "they missed their last beats"),
    "deaf": ("it cannot read", "they cannot read"),
    "draining": ("it takes nothing new", "they take nothing new"),
}


def explain_by_id(task_id: str, topic: str | None = None) -> str:
    """One sentence on why the task is not running and when it will be, or how it ended.

    Without `topic` all are asked. TaskNotFound if the id is unknown.
    """
    return explain(lookup.get_task(task_id, topic))


def explain(task: Task) -> str:
    """`explain_by_id` for a task that was looked up already."""
    if task.ended:
        return lived.ended(task)
    facts = _look(task)
    if task.state == messages.RUNNING:
        return _running(task, facts)
    if task.state == messages.DELAYED:
        return _delayed(task, facts)
    return _waiting(task, facts)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a topic and its agents look like to a task that waits."""

    now_ms: int
    paused: bool
    max_attempts: int | None
    readers: int  # agents by hand with a recent sign of life
    holder: str  # consumer that holds the task, or ''
    owner: dict[str, Any] | None  # its row, where it is registered
    idle_s: float
    ahead: int
    more: bool  # whether more are ahead than were counted
    agents: list[dict[str, Any]]  # registered agents of the topic
    crew: pace.Crew
    per_s: float | None  # at which tasks start while some wait


def _look(task: Task) -> _Facts:
    args = [task.id, _AHEAD_MOST, _BEHIND_MOST, READER_MS]
    raw = scripts.run("whynot", task.topic, args)
    now, paused, most, who, idle, ahead, more, mean_ms, since, *seen, flat = raw
    held, hands = _held(flat)
    holder = keys.agent_of(who)
    rows = agents.serving(task.topic, holder)
    serving = [
        row for row in rows if row["state"] != "gone" and task.topic in row["topics"]
    ]
    crew = pace.crew(
        task.topic,
        [row for row in serving if row["state"] in _AT_WORK],
        held,
        sum(
            not held[name]
            for name in hands
            if all(row["agent_id"] != keys.agent_of(name) for row in serving)
        ),
        float(mean_ms) / 1000 if mean_ms else None,
    )
    ends = pace.Ends(int(now), int(since), *map(int, seen)) if since else None
    owners = [row for row in rows if row["agent_id"] == holder]
    return _Facts(
        now_ms=int(now),
        paused=bool(paused),
        max_attempts=_most(task, most),
        readers=len(hands),
        holder="" if who == keys.HANDED_OVER else who,
        owner=owners[0] if owners else None,
        idle_s=int(idle) / 1000,
        ahead=int(ahead),
        more=bool(more),
        agents=serving,
        crew=crew,
        per_s=pace.per_s(crew, ends),
    )


def _held(flat: list[Any]) -> tuple[Counter[str], list[str]]:
    """How many tasks each consumer holds; those that are agents by hand.

    What an agent over HTTP holds stands under its id too.
    """
    held: Counter[str] = Counter()
    for name, count in zip(flat[::3], flat[1::3], strict=True):
        held[name] += int(count)
        if keys.lease_of(name) is not None:
            held[keys.agent_of(name)] += int(count)
    by_hand = zip(flat[::3], flat[2::3], strict=True)
    return held, [name for name, yes in by_hand if yes]


def _most(task: Task, of_topic: str) -> int | None:
    """How many attempts the task may have; what its handler says is known from those
    that failed."""
    if task.max_attempts or of_topic:
        return task.max_attempts or int(float(of_topic))
    last = _before(task)
    told = last.get("max_attempts") if last else None
    return told if isinstance(told, int) else None


def _before(task: Task) -> dict[str, Any] | None:
    """The last attempt of this epoch that failed."""
    mine = [each for each in task.attempts if each.get("epoch") == task.epoch]
    return mine[-1] if mine else None


def _nth(number: int, facts: _Facts) -> str:
    of = f" of {facts.max_attempts}" if facts.max_attempts else ""
    return f"attempt {number}{of}"


def _after(task: Task) -> str:
    last = _before(task)
    return f", after {history.error_text(last)}" if last else ""


def _running(task: Task, facts: _Facts) -> str:
    who = task.agent or keys.agent_of(facts.holder) or "an agent"
    said = f"agent {who} runs it, {_nth(task.attempt, facts)}{_after(task)}"
    if task.cancel_requested:
        said += ", and is told to stop it"
    if keys.agent_of(facts.holder) != who:
        return words.sentence(said)  # it ended or changed hands since we looked
    until = _registered_until(facts)
    if until:
        kept = f"it keeps the task while it is registered, until {until}"
        return words.sentence(f"{said}; {kept} unless it beats again")
    said += _of_owner(facts)
    said += f"; the last sign of life for it came {words.span(facts.idle_s)} ago"
    lease_s = keys.lease_of(facts.holder) or conf.LEASE_S
    if facts.idle_s > lease_s / 2:
        lease = words.span(lease_s)
        said += f", after {lease} of silence another agent takes it over"
    return words.sentence(said)


def _registered_until(facts: _Facts) -> str:
    """Until when an agent by hand that holds the task keeps it without a beat; empty
    where its registration has ended, and for all others (see `judge`)."""
    row, by_hand = facts.owner, keys.agent_of(facts.holder) == facts.holder
    if row is None or row["consumer"] is not None or not by_hand:
        return ""
    left_ms = round(row["expires_in_s"] * 1000)
    return messages.iso(facts.now_ms + left_ms) if left_ms > 0 else ""


def _of_owner(facts: _Facts) -> str:
    """What the registry knows of the agent that holds the task, if it matters."""
    row = facts.owner
    if row is None or row["consumer"] is None:
        return ""  # of an agent by hand only the reads tell
    if row["consumer"] != facts.holder:
        return "; it has started anew since, so the task is handed over soon"
    if row["state"] == "gone":
        return "; it is gone, so the task is handed over soon"
    if row["state"] == "draining":
        return "; it is draining: it ends the task or gives it back"
    return ""


def _delayed(task: Task, facts: _Facts) -> str:
    due_ms = messages.iso_ms(task.due_at)
    if due_ms is None:
        return words.sentence(
            "its due time is gone, by hand; the audit makes it due soon"
        )
    left_s = (due_ms - facts.now_ms) / 1000
    late, is_ = left_s < -_LATE_S, "is"
    when = f"in {words.span(left_s)}, at {task.due_at}" if left_s > 0 else "now"
    if late:
        when, is_ = f"{words.span(-left_s)} ago, at {task.due_at}", "was"
    if task.attempt:
        said = f"{_nth(task.attempt + 1, facts)} {is_} due {when}"
        last = _before(task)
        if last:
            said += f"; the last one ended with {history.error_text(last)}"
    else:
        said = f"it was sent to start later: it {is_} due {when}"
    if late:
        said += "; any agent moves it into the queue then, and none did"
    return words.sentence(said + _hindered(task, facts, "; then "))


def _waiting(task: Task, facts: _Facts) -> str:
    if facts.holder:  # it was waiting a moment ago
        return words.sentence(f"agent {keys.agent_of(facts.holder)} has just taken it")
    hindered = _hindered(task, facts, "")
    ahead = _ahead(facts)
    if task.attempt:
        ahead += f" ({_nth(task.attempt + 1, facts)}{_after(task)})"
    if hindered:
        return words.sentence(f"{hindered}; {ahead}")
    lost = sum(
        each.get("epoch") == task.epoch and history.is_lost(each)
        for each in task.attempts
    )
    if lost >= conf.SUSPECT_AFTER:
        return words.sentence(
            f"it lost {words.count(lost, 'agent')} that ran it, so the next one runs "
            "it alone, once that has nothing else in hand"
        )
    return words.sentence(_when(ahead, facts))


def _when(ahead: str, facts: _Facts) -> str:
    """How soon a task starts that nothing but others keeps from it."""
    crew = facts.crew
    if crew.held_up:
        return f"{crew.held_up}; {ahead}"
    if facts.ahead < crew.free and not facts.more:
        room = f", and {words.count(crew.free, 'slot')} {words.are(crew.free)} free"
        return f"{ahead}{room if facts.ahead else ''}; an agent will take it at once"
    full = crew.slots and not crew.free
    busy = f"{_all_slots(facts)} {words.are(crew.slots)} busy; " if full else ""
    if facts.per_s is None:
        told = "" if busy else ", and nothing ended lately that would tell a pace"
        return f"{busy}{ahead}{told if facts.ahead else ''}"
    # The first of its turn comes once one of those that run now has ended.
    wait_s = (facts.ahead + 1 - crew.free) / facts.per_s
    takes = words.estimate(wait_s, facts.more)
    if not facts.ahead:
        return f"{busy}{ahead}, in {takes}"
    return f"{ahead}; at {words.pace(facts.per_s)} that takes {takes}"


def _all_slots(facts: _Facts) -> str:
    slots = facts.crew.slots
    rows = [row for row in facts.agents if row["state"] in _AT_WORK]
    number = "the one slot" if slots == 1 else f"all {slots:,} slots"
    whose = "an agent" if len(rows) == 1 else words.count(len(rows), "agent")
    return f"{number} of {whose}"


def _hindered(task: Task, facts: _Facts, link: str) -> str:
    """What keeps every task of the topic from starting; empty if nothing does."""
    if facts.paused:
        return f"{link}topic {task.topic!r} is paused: nothing starts until it resumes"
    states = Counter(row["state"] for row in facts.agents)
    if facts.readers or any(states[state] for state in _AT_WORK):
        return ""
    start = f"start one with {handlers.way_to_serve(task.topic)}"
    if not states:
        return f"{link}no live agent serves topic {task.topic!r}: {start}"
    if len(states) > 1:
        each = ", ".join(
            f"{states[s]:,} {words.are(states[s])} {s}" for s in sorted(states)
        )
        return f"{link}no agent of topic {task.topic!r} takes tasks now: {each}"
    [(state, count)] = states.items()
    who = "the only agent" if count == 1 else f"all {count:,} agents"
    one, many = _AWAY[state]
    said = f"{link}{who} of topic {task.topic!r} {words.are(count)} {state}: "
    said += one if count == 1 else many
    return f"{said}; {start}" if state == "draining" else said


def _ahead(facts: _Facts) -> str:
    if facts.ahead == 0 and not facts.more:
        return "it is next"
    about = "" if facts.ahead == 1 else "about "
    said = f"{words.count(facts.ahead, 'task')} {words.are(facts.ahead)} ahead of it"
    return f"more than {said}" if facts.more else f"{about}{said}"
