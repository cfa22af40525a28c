"""Many tasks of one topic in one call; if it fails, which of them are in the mesh."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from types import NoneType
from typing import Any

from . import accepting, errors, keys, levels, messages, wanted, words
from .batches import BATCH, Batch
from .levels import Level
from .wanted import new_id


def enqueue_many(
    topic: str,
    payloads: Iterable[Any],
    maxlen: int | None = None,
    *,
    task_ids: Iterable[str] | None = None,
    delay_s: float | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    durability: str | None = None,
) -> list[str]:
    """Accept many tasks, 100 per round trip; their ids in order.

    While the server works on a hundred, the next of a list are encoded.

    Whatever ends it early, the exception has the ids that were `accepted`, in order,
    also one that `payloads` itself raised: those and no others are in the mesh. Of a
    hundred with a conflict in it the rest is written. At a bound it is TopicFull.
    InvalidPayload names the payload by its index; it is raised before its hundred is
    sent. Trouble with Redis has the `task_ids` whose outcome is unknown as well.
    `task_ids` are one for each payload: InvalidOption before anything is sent where
    both have a length, else where one of them ends. Where each task is to have its own
    outcome, use `tasks.accept`. A `durability` that is waited for (`enqueue_task`) is
    waited for once per thousand.
    """
    if isinstance(payloads, AsyncIterable):
        raise errors.InvalidOption(
            "payloads is asynchronous, which aenqueue_many reads; give a list here"
        )
    sending = _Sending(topic, maxlen, delay_s, max_attempts, timeout_s)
    with sending.telling():
        _send_all(sending, payloads, task_ids, durability)
    return sending.accepted


async def aenqueue_many(
    topic: str,
    payloads: Iterable[Any] | AsyncIterable[Any],
    maxlen: int | None = None,
    *,
    task_ids: Iterable[str] | None = None,
    delay_s: float | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    durability: str | None = None,
) -> list[str]:
    """`enqueue_many` for asyncio; `payloads` may be asynchronous too.

    Each send takes a thread, the wait for payloads that come asynchronously does not.
    Who cancels it waits for what is on its way, and learns what was accepted as well.
    """
    sending = _Sending(topic, maxlen, delay_s, max_attempts, timeout_s)
    with sending.telling():
        try:
            if isinstance(payloads, AsyncIterable):
                await _asend_all(sending, payloads, task_ids, durability)
            else:
                # One thread for all: a source may be bound to it, as cursors are.
                await asyncio.to_thread(
                    _send_all, sending, payloads, task_ids, durability
                )
        except asyncio.CancelledError:
            await sending.stop()
            raise
    return sending.accepted


def _send_all(
    sending: _Sending,
    payloads: Iterable[Any],
    task_ids: Iterable[str] | None,
    durability: str | None,
) -> None:
    source = _iterator("payloads", payloads, "payloads")
    sending.name(task_ids, payloads)
    sending.level = levels.granted(durability)
    ahead = _Ahead(sending, source)
    # A source that makes its payloads may call us: not while a line is in use.
    lists = isinstance(payloads, Sized) and isinstance(task_ids, (Sized, NoneType))
    while batches := ahead.take():
        sending.send(batches, ahead.look if lists else None)
    sending.finish()


async def _asend_all(
    sending: _Sending,
    payloads: AsyncIterable[Any],
    task_ids: Iterable[str] | None,
    durability: str | None,
) -> None:
    sending.name(task_ids, payloads)
    sending.level = await levels.agranted(durability)
    chunk = []
    async for payload in payloads:
        chunk.append(payload)
        if len(chunk) == sending.size:
            await asyncio.to_thread(sending.send, sending.prepared(chunk))
            chunk = []
    if chunk:
        await asyncio.to_thread(sending.send, sending.prepared(chunk))
    sending.finish()


class _Sending:
    """One call: what was accepted so far, whose ids come next."""

    def __init__(
        self,
        topic: str,
        maxlen: int | None,
        delay_s: float | None,
        max_attempts: int | None,
        timeout_s: float | None,
    ) -> None:
        self.topic = keys.check_topic(topic)
        self.accepted: list[str] = []
        self._maxlen = maxlen if maxlen is None else wanted.check_maxlen(maxlen)
        self._due = wanted.due_in(delay_s)
        self._options = wanted.options_of(max_attempts, timeout_s)
        self._ids: Iterator[str] = iter(new_id, "")
        self._named: int | None = None  # how many ids there are, if that is known
        self.level: Level = levels.BY_ITSELF
        self._place = 0
        self._turn = threading.Lock()
        self._stopped = False  # nothing is sent any more
        self._under_way = False

    def name(self, task_ids: Iterable[str] | None, payloads: Any) -> None:
        """Take ids of the caller's; InvalidOption if their number is wrong by then."""
        if task_ids is None:
            return
        given = _iterator("task_ids", task_ids, "ids")
        self._ids = map(keys.check_task_id, given)
        if isinstance(task_ids, Sized):
            self._named = len(task_ids)
            if isinstance(payloads, Sized) and len(payloads) != self._named:
                raise errors.InvalidOption(
                    f"{self._named:,} task_ids for {len(payloads):,} payloads; "
                    "give one for each"
                )

    @property
    def size(self) -> int:
        """How many payloads to send at once."""
        return BATCH * (accepting.SET if self.level.waits else 1)

    def prepared(self, chunk: list[Any]) -> list[Batch]:
        """Up to `size` tasks, ready to be sent; raises what is wrong with one."""
        items = [
            wanted.Item(
                self._id(place), self._due, self._options, _encoded(payload, place)
            )
            for place, payload in enumerate(chunk, self._place)
        ]
        self._place += len(items)
        return [
            Batch(self.topic, items[at : at + BATCH], self._maxlen)
            for at in range(0, len(items), BATCH)
        ]

    def send(
        self, batches: list[Batch], meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Send what is prepared; raises what became of the first that was refused."""
        with self._turn:
            if self._stopped:
                raise asyncio.CancelledError
            self._under_way = True
        try:
            found = accepting.send(batches, self.level, meanwhile)
            outcomes = list(itertools.chain.from_iterable(found))
            # Before anything is raised: what follows a refusal in its hundred is
            # written.
            self.accepted += [one.id for one in outcomes if one.error is None]
        finally:
            self._under_way = False
        accepting.taken(self.topic, outcomes)

    async def stop(self) -> None:
        """Have the thread send nothing more; `accepted` is complete after this.

        It may wait for its source: it is waited for only while it sends, which ends in
        its own time, however often this is cancelled.
        """
        with self._turn:
            self._stopped = True
        while self._under_way:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.002)

    def finish(self) -> None:
        """InvalidOption if ids of a list are left over: a caller counted wrong."""
        if self._named is not None and self._named > self._place:
            raise errors.InvalidOption(
                f"{self._named:,} task_ids for {self._place:,} payloads; "
                "give one for each"
            )

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Whoever catches what ends the call knows what is in the mesh already."""
        try:
            yield
        except errors.TopicFull as full:
            more = len(self.accepted) > len(full.accepted)
            count = len(self.accepted)
            told = f" ({count:,} of this call {words.were(count)} accepted)"
            raise errors.TopicFull(
                f"{full}{told if more else ''}",
                retry_after_s=full.retry_after_s,
                accepted=self.accepted,
            ) from None
        except BaseException as exc:
            _tell_accepted(exc, self.accepted)
            raise

    def _id(self, place: int) -> str:
        try:
            return next(self._ids)
        except StopIteration:
            raise errors.InvalidOption(
                f"task_ids ended before payloads[{place}]; give one for each"
            ) from None


class _Ahead:
    """What is sent next, made ready while the server works on what was sent before.

    One hundred is on its way at a time: what the mesh has at any end is known.
    """

    def __init__(self, sending: _Sending, source: Iterator[Any]) -> None:
        self._sending, self._source = sending, source
        self._next: list[Batch] | None = None
        self._broke: BaseException | None = None

    def look(self) -> None:
        """Have the next ready; what goes wrong in it waits for its turn."""
        if self._next is None and self._broke is None:
            try:
                chunk = list(itertools.islice(self._source, self._sending.size))
                self._next = self._sending.prepared(chunk)
            except BaseException as exc:
                self._broke = exc

    def take(self) -> list[Batch]:
        """The next; empty after the last."""
        self.look()
        if self._broke is not None:
            raise self._broke
        batches, self._next = self._next or [], None
        return batches


def _encoded(payload: Any, place: int) -> bytes:
    try:
        return messages.encode(payload)
    except errors.InvalidPayload as exc:
        exc.args = (f"payloads[{place}]: {exc}",)
        raise


def _iterator(name: str, values: Any, what: str) -> Iterator[Any]:
    """What goes through the values; InvalidOption where they are one, or none."""
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, dict)):
        raise errors.InvalidOption(
            f"{name} is one {type(values).__name__}; give a list of {what}"
        )
    return iter(values)


def _tell_accepted(exc: BaseException, accepted: list[str]) -> None:
    if isinstance(exc, errors.BusError):
        exc.facts["accepted"] = accepted
    elif accepted:
        count = len(accepted)
        said = f"{words.count(count, 'task')} of this call {words.were(count)}"
        exc.add_note(f"{said} accepted before")
    with contextlib.suppress(AttributeError):  # a class with slots of its own
        exc.accepted = accepted  # type: ignore[attr-defined]
