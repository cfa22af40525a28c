"""The same hot call as a service in FastAPI with redis.asyncio would have it.

A hashed token that is remembered for 5 s, a bucket of calls per token on the server's
clock, a body that pydantic reads, a bound for the backlog; then the entry, its record
and a counter, in one script. It lacks what the mesh does beyond that (delays, repeats,
prefixes of topics, the ledger, problem documents), which is to its advantage.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Annotated, Any
from uuid import UUID, uuid4

import orjson
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis
from reference_names import TOKENS, of

REMEMBERED_S = 5.0
PAYLOAD_MAX_BYTES = 256 * 1024
BACKLOG_MAX = 100_000_000
CALLS_PER_MINUTE = 10**9

app = FastAPI()
redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)

# Tokens left in the bucket, or -1 where it is empty; ARGV: capacity, refill per second.
_take = redis.register_script("""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local left, at = unpack(redis.call('HMGET', KEYS[1], 'left', 'at'))
left = math.min(ARGV[1], (left or ARGV[1]) + (now - (at or now)) * ARGV[2])
if left < 1 then return -1 end
redis.call('HSET', KEYS[1], 'left', left - 1, 'at', now)
redis.call('EXPIRE', KEYS[1], 120)
return 1
""")
# 1: accepted, 0: known, -1: full.
# KEYS: stream, records, counters; ARGV: id, JSON, bound.
_accept = redis.register_script("""
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then return -1 end
local sid = redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'json', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], sid)
redis.call('HINCRBY', KEYS[3], 'accepted', 1)
return 1
""")
_remembered: dict[str, tuple[float, str]] = {}


class Asked(BaseModel):
    """The body of the call."""

    model_config = ConfigDict(extra="forbid")

    topic: str = Field(pattern=r"^[a-z0-9]([a-z0-9:._-]{0,62}[a-z0-9_-])?$")
    task: Any
    id: UUID | None = None
    max_attempts: int | None = Field(None, ge=1, le=1000)
    timeout_s: float | None = Field(None, gt=0)


class Accepted(BaseModel):
    """What is answered."""

    id: str
    topic: str
    state: str = "waiting"
    durability: str = "aof"


async def principal(authorization: Annotated[str, Header()] = "") -> str:
    """The hash of a token that is known; its calls are counted."""
    hashed = hashlib.sha512(authorization.removeprefix("Bearer ").encode()).hexdigest()
    until, role = _remembered.get(hashed, (0.0, ""))
    if until < time.monotonic():
        role = await redis.hget(TOKENS, hashed) or ""
        if not role:
            raise HTTPException(401, "Invalid token.", {"WWW-Authenticate": "Bearer"})
        _remembered[hashed] = (time.monotonic() + REMEMBERED_S, role)
    bucket = [f"reference:bucket:{hashed[:16]}"]
    if await _take(bucket, [CALLS_PER_MINUTE, CALLS_PER_MINUTE / 60]) < 0:
        raise HTTPException(429, "Too many calls.", {"Retry-After": "1"})
    return hashed


@app.post("/enqueue", status_code=201)
async def enqueue(
    asked: Asked, response: Response, who: Annotated[str, Depends(principal)]
) -> Accepted:
    """One task."""
    text = orjson.dumps(asked.task)
    if len(text) > PAYLOAD_MAX_BYTES:
        raise HTTPException(413, "The payload is too large.")
    task_id = str(asked.id or uuid4())
    topic = asked.topic
    accepted = await _accept(of(topic), [task_id, text, BACKLOG_MAX])
    if accepted < 0:
        raise HTTPException(429, "The topic is full.", {"Retry-After": "1"})
    response.status_code = 201 if accepted else 200
    response.headers["Location"] = f"/tasks/{task_id}?topic={topic}"
    return Accepted(id=task_id, topic=topic)
