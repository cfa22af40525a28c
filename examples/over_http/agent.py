"""An agent in plain Python: agent.py http://127.0.0.1:8000 TOKEN TOPIC ID."""

import http.client
import json
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

URL, TOKEN, TOPIC, ME = sys.argv[1:5]
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
AGENT = {"agent_id": ME, "agent_type": "words"}
held = {}  # what is in hand, by task id


def call(path, body=None, method="POST"):
    """Send until the mesh answers: every call here may be repeated."""
    data = None if body is None else json.dumps(body).encode()
    while True:
        try:
            target = f"{URL}/api/v1/mesh/{path}"
            request = urllib.request.Request(target, data, HEADERS, method=method)
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as exc:
            if exc.code == 404 and b'"agent_not_found"' in exc.read():
                call("agents", AGENT)  # the registration has ended
            elif exc.code not in (408, 429, 502, 503, 504):
                raise
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(1)


def beat():
    """Keep the registration, and what is in hand, well within the lease of 15 s."""
    while True:
        time.sleep(4)
        try:
            call(f"agents/{ME}/heartbeat", {"deliveries": list(held.values())})
        except urllib.error.HTTPError as exc:  # refused: the next may be heard
            print(f"no beat: {exc}", file=sys.stderr)


def run(task):
    """The work: how many words the text has."""
    return {"words": len(task["text"].split())}


call("agents", AGENT)
threading.Thread(target=beat, daemon=True).start()
drain = False
while not drain:
    claim = {"agent_id": ME, "count": 1, "wait_s": 20, "claim_id": str(uuid.uuid4())}
    answer = call(f"topics/{TOPIC}/claim", claim)
    drain = answer["drain"]
    for task in answer["deliveries"]:
        mine = held[task["id"]] = {key: task[key] for key in ("topic", "id", "fence")}
        try:
            verb, end = "complete", {"result": run(task["task"])}
        except Exception as exc:
            error = {"type": type(exc).__name__, "message": str(exc)}
            verb, end = "fail", {"error": error}
        call(f"deliveries/{verb}", {"deliveries": [{**mine, **end}]})
        del held[task["id"]]
call(f"agents/{ME}", method="DELETE")
