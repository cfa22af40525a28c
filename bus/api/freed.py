"""Answers of Django are freed once they are sent, not when garbage is looked for.

Django listens for a client that goes while a view runs. To the listener the end of an
answer looks like that too, and the exception it then keeps holds the frame that holds
the answer: pages of megabytes would wait for a full collection, which comes rarely.
"""

from __future__ import annotations

import asyncio
from typing import Any

from .asgi import App, Message, Receive, Send


def freed(app: App) -> App:
    """The ASGI app, which hears nothing any more once it has answered."""

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        answered = False

        async def hears() -> Message:
            message = await receive()
            if answered:
                await asyncio.get_running_loop().create_future()  # until cancelled
            return message

        async def says(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body":
                # Before it is sent: whoever listens is woken by that.
                answered = not message.get("more_body", False)
            await send(message)

        await app(scope, hears, says)

    return outer
