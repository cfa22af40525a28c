"""Why a task is not running, in one sentence, with when it will be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from . import agents, handlers, keys, lookup, messages, scripts
from .conf import conf
from .messages import Task
from .topics import READER_MS

_COUNT_MOST: Final = 1_000  # tasks ahead that are counted


def explain_by_id(task_id: str, topic: str | None = None) -> str:
    """One sentence on why the task is not running and when it will be, or how it ended.

    Without `topic` all are asked. TaskNotFound if the id is unknown.
    """
    return explain(lookup.get_task(task_id, topic))


def explain(task: Task) -> str:
    """`explain_by_id` for a task that was looked up already."""
    if task.ended:
        return _ended(task)
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
    per_s: float  # attempts that ended lately
    holder: str
    idle_s: float
    ahead: int
    more: bool  # whether more are ahead than were counted
    serving: list[dict[str, Any]]  # registered agents that take tasks of the topic


def _look(task: Task) -> _Facts:
    args = [task.id, _COUNT_MOST, READER_MS]
    raw = scripts.run("whynot", task.topic, args)
    now, paused, most, readers, ends, span, who, idle, ahead, more = raw
    serving = [
        row
        for row in agents.overview()
        if row["state"] not in ("gone", "draining") and task.topic in row["topics"]
    ]
    return _Facts(
        now_ms=int(now),
        paused=bool(paused),
        max_attempts=_most(task, most),
        readers=int(readers),
        per_s=1000 * int(ends) / int(span),
        holder=keys.agent_of(who),
        idle_s=int(idle) / 1000,
        ahead=int(ahead),
        more=bool(more),
        serving=serving,
    )


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
    return f", after {error_text(last)}" if last else ""


def _running(task: Task, facts: _Facts) -> str:
    who = task.agent or facts.holder or "an agent"
    said = f"agent {who} runs it, {_nth(task.attempt, facts)}{_after(task)}"
    if task.cancel_requested:
        said += ", and is told to stop it"
    if facts.holder != who:
        return _sentence(said)  # it ended or changed hands since we looked
    said += f"; the last sign of life for it came {span(facts.idle_s)} ago"
    if facts.idle_s > conf.LEASE_S / 2:
        said += f", after {span(conf.LEASE_S)} of silence another agent takes it over"
    return _sentence(said)


def _delayed(task: Task, facts: _Facts) -> str:
    left_s = ((messages.iso_ms(task.due_at) or 0) - facts.now_ms) / 1000
    when = f"in {span(left_s)}, at {task.due_at}" if left_s > 0 else "now"
    if task.attempt:
        said = f"{_nth(task.attempt + 1, facts)} is due {when}"
        last = _before(task)
        if last:
            said += f"; the last one ended with {error_text(last)}"
    else:
        said = f"it was sent to start later: it is due {when}"
    return _sentence(said + _hindered(task, facts, "; then "))


def _waiting(task: Task, facts: _Facts) -> str:
    hindered = _hindered(task, facts, "")
    ahead = _ahead(facts)
    if task.attempt:
        ahead += f" ({_nth(task.attempt + 1, facts)}{_after(task)})"
    if hindered:
        return _sentence(f"{hindered}; {ahead}")
    lost = sum(
        each.get("epoch") == task.epoch and is_lost(each) for each in task.attempts
    )
    if lost >= conf.SUSPECT_AFTER:
        return _sentence(
            f"it lost {lost} agents while they ran it, so the next one runs it alone, "
            "once that has nothing else in hand"
        )
    slots = sum(_number(row["slots"]) for row in facts.serving)
    busy = sum(_number(row["in_flight"]) for row in facts.serving)
    if facts.ahead and facts.per_s:
        wait_s = facts.ahead / facts.per_s
        least = "more than " if facts.more else "about "
        takes = f"{least}{span(wait_s)}"
        return _sentence(f"{ahead}; at {_pace(facts.per_s)} that takes {takes}")
    if slots and busy >= slots:
        all_ = "the one slot of" if slots == 1 else f"all {slots:,} slots of"
        verb = "is" if slots == 1 else "are"
        said = f"{all_} {_agents(len(facts.serving))} {verb} busy"
        return _sentence(f"{said}; {ahead}")
    if facts.ahead:
        return _sentence(f"{ahead}, and nothing ended lately that would tell a pace")
    return _sentence(f"{ahead}; {_agents(_served(facts))} will take it at once")


def _hindered(task: Task, facts: _Facts, link: str) -> str:
    """What keeps every task of the topic from starting; empty if nothing does."""
    if facts.paused:
        return f"{link}topic {task.topic!r} is paused: nothing starts until it resumes"
    if not _served(facts):
        return (
            f"{link}no live agent serves topic {task.topic!r}: start one with "
            f"{handlers.way_to_serve(task.topic)}"
        )
    if facts.serving and all(row["state"] == "deaf" for row in facts.serving):
        return f"{link}the agents of topic {task.topic!r} cannot read from it"
    return ""


def _served(facts: _Facts) -> int:
    """Agents at work: an agent by hand may have readers and no registration."""
    return max(len(facts.serving), facts.readers)


def _ahead(facts: _Facts) -> str:
    if facts.more:
        return f"more than {facts.ahead:,} tasks are ahead of it"
    if facts.ahead == 0:
        return "it is next"
    return (
        "1 task is ahead of it"
        if facts.ahead == 1
        else (f"about {facts.ahead:,} tasks are ahead of it")
    )


def _pace(per_s: float) -> str:
    if per_s >= 10:
        return f"{per_s:,.0f} per second"
    if per_s >= 1:
        return f"{per_s:.1f} per second"
    return f"{per_s * 60:.{0 if per_s * 60 >= 10 else 1}f} per minute"


def _agents(count: int) -> str:
    return "an agent" if count == 1 else f"{count:,} agents"


def _ended(task: Task) -> str:
    when = f" at {task.ended_at}" if task.ended_at else ""
    if task.state == messages.DONE:
        who = f" by agent {task.agent}" if task.agent else ""
        return _sentence(f"it was done{who}{when}{_lives(task)}")
    if task.state == messages.CANCELLED:
        return _sentence(f"it was cancelled{when}")
    why = error_text({"error": task.error})
    if task.state == messages.DISCARDED:
        return _sentence(f"it died{when} of {why}, and its letter was discarded")
    after = _lives(task) or " after 1 attempt"
    return _sentence(f"it is dead since{when[3:]}{after}: {why}; replay runs it again")


def _lives(task: Task) -> str:
    """What an ended task took beyond one attempt."""
    count = len(task.attempts) + (task.state == messages.DONE)
    said = [f"{count:,} attempts"] if count > 1 else []
    if task.epoch:
        said += ["1 replay" if task.epoch == 1 else f"{task.epoch:,} replays"]
    return f" after {' and '.join(said)}" if said else ""


def error_text(attempt: dict[str, Any]) -> str:
    """`Type: message` of an attempt on one line, cut short."""
    error = _error(attempt)
    kind, said = error.get("type") or "an error", str(error.get("message") or "")
    line = f"{kind}: {said}" if said else str(kind)
    line = " ".join(line.split())
    return line if len(line) <= 160 else line[:159] + "…"


def is_lost(attempt: dict[str, Any]) -> bool:
    """Whether an attempt ended with its agent."""
    return _error(attempt).get("type") == "LeaseLost"


def _error(attempt: dict[str, Any]) -> dict[str, Any]:
    error = attempt.get("error")
    return error if isinstance(error, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def span(seconds: float) -> str:
    """A duration as people say it: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min"
    return f"{hours // 24} d {hours % 24} h"
