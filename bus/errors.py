"""The errors callers can tell apart.

BusError                    base: a stable `code`, a sentence
├─ BusUnavailable           Redis does not answer, or refuses for now; too many wait
│  └─ OutcomeUnknown        the request was sent, its answer never came
│     └─ LevelNotReached    written, yet not as durably as wanted, as far as is known
├─ InvalidName              topic, agent id or task id not allowed        (ValueError)
├─ InvalidPayload           not JSON, or outside the limits               (ValueError)
│  └─ PayloadTooLarge       more bytes than allowed
├─ InvalidOption            a number or choice outside its range          (ValueError)
├─ DecodeError              an entry somebody else wrote; carries it raw
│  └─ Malformed             a payload that no agent can read
├─ NotFound                 TaskNotFound · DeadLetterNotFound · AgentNotFound ·
│                           TopicNotFound · ReplayNotFound (bulk/record.py)
├─ Conflict                 TaskConflict · NotDead · NotCancellable · TopicBusy ·
│                           SeveralTopics (lookup.py) · NotRunnable (again.py)
├─ TopicFull                a bound refuses new work; says when to come back
├─ TooManyTopics            the mesh knows as many topics as it may
├─ RateLimited              a limit of requests refuses; says when to come back
├─ UpstreamError            the model server is down or its answer is none
│  ├─ UpstreamTimeout       it took too long
│  ├─ UpstreamBusy          it, or our queue before it, takes no more for now
│  └─ UpstreamRefused · ModelNotFound  not this request; it has no such model
├─ HandlerError             a handler that cannot be found, imported or registered
├─ DamagedKey               a key changed by hand (refusals.py)
├─ WrongLayout · UnfitServer  data of another version; a server set up to lose tasks
└─ ServerError              the embedded server cannot run here
   └─ ServerLocked          its data directory belongs to a running mesh

Signals, raised by handlers to steer, not failures of the bus: Retry · GiveUp
"""

from __future__ import annotations

from typing import Any


class BusError(Exception):
    """Base of every error the bus raises; `code` is stable, the sentence is not."""

    code = "bus_error"

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0])
        self.facts = facts


class BusUnavailable(BusError):
    """Redis is not answering or refuses work; nothing was written.

    Where Redis told why it refuses, `code` says it: `memory_full`, `disk_failing`,
    `replicas_missing` or `read_only`; `overloaded` where too many wait for it here.
    """

    code = "bus_unavailable"
    outcome = "not_written"


class OutcomeUnknown(BusUnavailable):
    """The request was sent but not answered; repeat it with the same id.

    `task_ids` are the ids of the tasks it was to send, if any.
    """

    code = "outcome_unknown"
    outcome = "unknown"

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.task_ids: list[str] = []


class LevelNotReached(OutcomeUnknown):
    """Written, but not made as durable as wanted in time; repeat it with the same id.

    The tasks of `task_ids` are there and may run. Whether they survive what the level
    stands for, nobody knows; a repeat succeeds once they do.
    """

    code = "level_not_reached"


class InvalidName(BusError, ValueError):
    """A topic, agent id, group or task id that is not allowed."""

    code = "invalid_name"


class InvalidPayload(BusError, ValueError):
    """A payload or result that is not JSON, or outside the limits."""

    code = "invalid_payload"


class PayloadTooLarge(InvalidPayload):
    """A payload or result with more bytes than allowed."""

    code = "payload_too_large"


class InvalidOption(BusError, ValueError):
    """An option outside its range."""

    code = "invalid_option"


class DecodeError(BusError):
    """An entry this bus did not write, or could not have; `raw` is what it holds."""

    code = "decode_error"

    def __init__(self, message: str = "", *, raw: Any = None) -> None:
        super().__init__(message)
        self.raw = raw


class Malformed(DecodeError):
    """A payload that no agent can read: somebody else wrote it."""

    code = "malformed"


class NotFound(BusError):
    """No such thing."""

    code = "not_found"


class TaskNotFound(NotFound):
    """No task with this id is known: never sent, or its result was trimmed."""

    code = "task_not_found"


class DeadLetterNotFound(NotFound):
    """No dead letter of this task."""

    code = "dead_letter_not_found"


class AgentNotFound(NotFound):
    """No agent with this id was here lately."""

    code = "agent_not_found"


class TopicNotFound(NotFound):
    """No topic of this name: nothing was sent to it, no group made, no limit set."""

    code = "topic_not_found"


class Conflict(BusError):
    """The thing exists in a state that does not allow this."""

    code = "conflict"


class TaskConflict(Conflict):
    """This task id is taken by a task with another payload."""

    code = "task_conflict"


class NotDead(Conflict):
    """The task is not a dead letter (any more): somebody else was first."""

    code = "not_dead"


class NotCancellable(Conflict):
    """The task has ended; there is nothing left to cancel."""

    code = "not_cancellable"


class TopicBusy(Conflict):
    """Agents run tasks of the topic, so it is not deleted."""

    code = "topic_busy"


class TopicFull(BusError):
    """The topic is at a bound and refuses new work; nothing was written.

    `accepted` lists the ids of an `enqueue_many` that were taken before the bound.
    """

    code = "topic_full"

    def __init__(
        self, message: str = "", *, retry_after_s: float = 1.0, accepted: Any = ()
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.accepted = list(accepted)


class TooManyTopics(BusError):
    """The mesh knows as many topics as its settings allow."""

    code = "too_many_topics"


class RateLimited(BusError):
    """Too many requests of one principal; nothing was done."""

    code = "rate_limited"

    def __init__(self, message: str = "", *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamError(BusError):
    """The model server cannot be reached, or its answer cannot be used."""

    code = "upstream_error"


class UpstreamTimeout(UpstreamError):
    """The model server took too long."""

    code = "upstream_timeout"


class UpstreamBusy(UpstreamError):
    """The model server, or the queue before it, takes no more requests for now."""

    code = "upstream_busy"

    def __init__(self, message: str = "", *, retry_after_s: float = 1.0, **facts: Any):
        super().__init__(message, **facts)
        self.retry_after_s = retry_after_s


class UpstreamRefused(UpstreamError):
    """The model server does not accept this request."""

    code = "upstream_refused"


class ModelNotFound(UpstreamError):
    """The model server does not have this model."""

    code = "model_not_found"


class HandlerError(BusError):
    """A handler that cannot be found, imported or registered."""

    code = "handler_error"


class WrongLayout(BusError):
    """The server's data is in a layout this version does not know."""

    code = "wrong_layout"


class UnfitServer(BusError):
    """The server is set up so that it would lose tasks."""

    code = "unfit_server"


class ServerError(BusError):
    """The embedded server cannot run here."""

    code = "server_error"


class ServerLocked(ServerError):
    """The data directory belongs to a mesh that is running."""

    code = "server_locked"


class Retry(Exception):
    """Raised by a handler: end this attempt as failed and try again."""

    delay_s: float | None = None  # replaces the computed backoff; `None` keeps it

    def __init__(self, delay_s: float | None = None, reason: str = "") -> None:
        if delay_s is not None and not float(delay_s) >= 0:
            raise InvalidOption(f"Retry(delay_s={delay_s!r}): not 0 s or more")
        super().__init__(reason or "the handler asked for a retry")
        self.delay_s = delay_s

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by their message alone, which is not our first argument.
        return type(self), (self.delay_s, str(self)), vars(self)


class GiveUp(Exception):
    """Raised by a handler: no further attempt can help, make it a dead letter."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler gave up")
