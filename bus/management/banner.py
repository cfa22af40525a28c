"""What `up` prints once all runs: where everything is, and a first task to paste."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final

from bus import server
from bus.home import credentials

_BANNER: Final = """
  Task mesh is up.

  Dashboard {dashboard}
  Sign in   {sign_in}
  Redis     {redis}
  Data      {data}
  Log       {log}
  Agents    {agents}
{first_task}
  In another terminal:
    {manage} enqueue TOPIC JSON      send a task
    {manage} results --follow        watch results
    {manage} dead list               see what failed for good
  Ctrl-C here stops all; nothing is lost.
"""
_FIRST_TASK: Final = """
  A first task (topic hello is served by the agents above):
    curl -i {url}/api/v1/mesh/enqueue -H "Authorization: Bearer {token}" \
-H "Content-Type: application/json" -d '{{"topic": "hello", "task": {{"name": "you"}}}}'
  then its result, with the id from the answer in place of ID:
    curl "{url}/api/v1/mesh/tasks/ID?topic=hello&wait=10" \
-H "Authorization: Bearer {token}"
"""
# The token itself is shown once; later the shell reads it from the file as we write it.
_FROM_FILE: Final = """$(sed -n 's/.*"token": "\\(.*\\)".*/\\1/p' {path})"""


def text(
    *,
    dashboard: str,
    redis: str,
    agents: int,
    embedded: server.EmbeddedServer | None,
    keys: credentials.Credentials | None,
    fresh: bool,
) -> str:
    """The banner. `fresh` credentials are shown, kept ones only pointed to.

    Without credentials (`--prod`) it says how to make the first accounts.
    """
    manage = f"{shown(Path(sys.executable))} manage.py"
    elsewhere = "kept by that server"
    path = credentials.path()
    if keys is None:
        sign_in = f"{manage} createsuperuser; for clients: {manage} token create"
    elif fresh:
        sign_in = (
            f"{keys.username} with password {keys.password} (shown this once, kept in "
            f"{shown(path)})"
        )
    else:
        sign_in = f"{keys.username}; password and token are in {shown(path)}"
    first_task = ""
    if keys is not None:
        # Absolute: the other terminal may be in another folder.
        kept = _FROM_FILE.format(path=shlex.quote(str(path.absolute())))
        token = keys.token if fresh else kept
        first_task = _FIRST_TASK.format(url=keys.url, token=token)
    return _BANNER.format(
        dashboard=dashboard,
        sign_in=sign_in,
        redis=redis,
        data=shown(embedded.directory) if embedded else elsewhere,
        log=shown(embedded.log_path) if embedded else elsewhere,
        agents=agents or "none; start some with `manage.py agent`",
        first_task=first_task,
        manage=manage,
    )


def shown(path: Path) -> str:
    """Relative to here where that is shorter to read."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
