"""A generation as a task: what `POST ollama/generate` takes, with retries and replay.

    manage.py agent --topic ollama --handler examples.ollama_agent.agents:generate

A model server that is away or busy costs an attempt and is asked again, later. What no
attempt can help, as a model that is missing, is a dead letter: replay it later.
"""

from __future__ import annotations

from typing import Any

from bus import GiveUp, Retry, errors, handler, ollama
from bus.gateway import prompts

OWNER = "topic:ollama"  # tasks of the topic share kept answers with each other alone
_HOPELESS = (errors.InvalidPayload, errors.ModelNotFound, errors.UpstreamRefused)


# A lease is renewed while it runs, so a long generation is lost only with its agent.
@handler("ollama", max_attempts=8, timeout_s=600, concurrency=2)
async def generate(payload: Any, task: Any) -> dict[str, Any]:
    """The whole answer, as Ollama gives it; `stream` is of no use here."""
    try:
        prompt = prompts.parse(payload)
        # How many run at once is the concurrency of the agents: no limit beside it.
        seat = await ollama.generate(OWNER, prompt, limited=False)
        try:
            return await ollama.whole(seat)
        finally:
            seat.close()
    except errors.UpstreamBusy as exc:
        raise Retry(delay_s=exc.retry_after_s, reason=str(exc)) from exc
    except _HOPELESS as exc:
        raise GiveUp(str(exc)) from exc
