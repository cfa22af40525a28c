"""The gateway to Ollama: its models, its last hour, what it generates now, a try."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.contrib import messages as toasts
from django.http import HttpResponse
from django.urls import reverse
from django.utils.html import format_html

from bus import audit, errors, messages, ollama, records, roles
from bus.conf import conf
from bus.gateway import prompts
from dashboard import formats
from dashboard.access import action, page, to
from dashboard.frame import shown

# A page that shows also what else there is must not wait for a server that hangs.
_LOOK_S: Final = 2.0
# A form holds a thread while it waits; who wants more than that asks over the API.
_ANSWER_S: Final = 60.0
_MODELS_MOST: Final = 100
_TOKENS: Final = "256"
_STATUS: Final[dict[type[Exception], int]] = {
    errors.InvalidPayload: 422,
    errors.PayloadTooLarge: 422,
    errors.RateLimited: 429,
    errors.ModelNotFound: 404,
    errors.UpstreamRefused: 400,
    errors.UpstreamBusy: 503,
    errors.UpstreamTimeout: 504,
    errors.UpstreamError: 502,
}


@page
def gateway(request: Any) -> HttpResponse:
    """The page."""
    return _shown(request)


@action(roles.GENERATE)
def ask(request: Any) -> HttpResponse:
    """Generate as the signed-in user and show the answer below the form."""
    form, who = request.POST, request.principal
    draft = {name: form.get(name, "").strip() for name in ("model", "tokens")}
    draft["prompt"] = form.get("prompt", "")
    try:
        prompt = prompts.parse(_body(draft))
        answer = async_to_sync(_answered)(who, prompt)
    except (errors.InvalidPayload, errors.RateLimited, errors.UpstreamError) as exc:
        draft["wrong"] = formats.said(exc)
        return _shown(request, draft, status=_STATUS[type(exc)])
    audit.record(who, roles.GENERATE, target=prompt.model, cache=answer["how"])
    return _shown(request, draft, answer)


@action(roles.CANCEL)
def end(request: Any, generation: str) -> HttpResponse:
    """End a generation, in whichever process it runs."""
    back = to(reverse("dashboard:ollama") + "#running")
    rows = {row["id"]: row for row in ollama.running()}
    row = rows.get(generation)
    if row is not None and row["ending"]:
        return back  # the second click
    if row is None or not ollama.stop(generation):
        toasts.warning(request, "It had ended before.")
        return back
    about = {name: str(row.get(name, ""))[:200] for name in ("model", "owner")}
    audit.record(request.principal, "end generation", target=generation, **about)
    says = "The generation of {} ends; whoever waits for it is told."
    toasts.success(request, format_html(says, about["model"]))
    return back


def _body(draft: dict[str, str]) -> dict[str, Any]:
    """The form as a body of `ollama/generate`; InvalidPayload for what is no number."""
    body: dict[str, Any] = {"prompt": draft["prompt"]}
    if draft["model"]:
        body["model"] = draft["model"]
    if text := draft["tokens"]:
        most = records.number(text, 9)
        if most is None:
            raise errors.InvalidPayload("the tokens at most must be a whole number")
        body["options"] = {"num_predict": most}
    return body


async def _answered(who: roles.Principal, prompt: prompts.Prompt) -> dict[str, Any]:
    seat = await ollama.generate(who.key, prompt, name=who.name)
    try:
        async with asyncio.timeout(_ANSWER_S):
            how = await seat.ready()
            whole = await ollama.whole(seat)
    except TimeoutError:
        raise errors.UpstreamTimeout(
            f"the answer was not complete after {_ANSWER_S:.0f} s; ask for fewer "
            "tokens, or over the API"
        ) from None
    finally:
        seat.close()
    return {"how": how, "age_s": seat.age_s, "whole": whole, "model": prompt.model}


def _shown(
    request: Any,
    draft: dict[str, str] | None = None,
    answer: dict[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    figures = ollama.figures()
    models, wrong = async_to_sync(_models)()
    context = {
        "section": "ollama",
        "figures": figures,
        "failed": figures.counts["failed"],
        "first": {"p50": figures.first_ms(0.5), "p95": figures.first_ms(0.95)},
        "whole": {"p50": figures.whole_ms(0.5), "p95": figures.whole_ms(0.95)},
        "generations": ollama.running(),
        "models": models,
        "models_wrong": wrong,
        "limits": conf,
        "default": conf.OLLAMA_MODEL,
        "draft": {"model": conf.OLLAMA_MODEL, "tokens": _TOKENS, **(draft or {})},
        "answer": answer,
    }
    return shown(request, "ollama.html", context, status)


async def _models() -> tuple[list[dict[str, Any]], str]:
    """The models as rows, and what is wrong if there are none to be had."""
    try:
        async with asyncio.timeout(_LOOK_S):
            told, loaded = await asyncio.gather(
                ollama.models(), ollama.models(loaded=True)
            )
    except TimeoutError:
        return [], f"The model server did not answer within {_LOOK_S:.0f} s."
    except errors.UpstreamError as exc:
        return [], formats.said(exc)
    until = {str(row.get("name")): row for row in loaded["models"]}
    rows = [_row(row, until) for row in told["models"][:_MODELS_MOST]]
    return sorted(rows, key=lambda row: (not row["loaded"], row["name"])), ""


def _row(model: dict[str, Any], loaded: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A model as text: what a server says of itself may be of any type."""
    details = model.get("details")
    details = details if isinstance(details, dict) else {}
    name = str(model.get("name", ""))[:128]
    here = loaded.get(name)
    return {
        "name": name,
        "size": model.get("size"),
        "parameters": str(details.get("parameter_size") or "")[:30],
        "quantisation": str(details.get("quantization_level") or "")[:30],
        "loaded": here is not None,
        "until": _at(here.get("expires_at")) if here else None,
    }


def _at(text: object) -> str | None:
    """A time of the model server as one of ours; None for what is none."""
    try:
        return messages.iso(round(datetime.fromisoformat(str(text)).timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        return None
