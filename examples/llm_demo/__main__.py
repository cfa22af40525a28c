"""`make demo-llm`: the mesh of this folder, with a demo upstream behind its gateway."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from examples.llm_demo.upstream import MODEL, READY
from meshsite import settings

ROOT = Path(__file__).resolve().parent.parent.parent
# The other terminal reads where the mesh is, and its token, from the file of the mesh.
_KEPT: Final = """$(sed -n 's/.*"{name}": "\\(.*\\)".*/\\1/p' {path})"""
_PASTE: Final = """\
  curl -N "{url}/api/v1/mesh/ollama/generate" -H "Authorization: Bearer {token}" \
-d '{{"prompt": "hello", "stream": true}}'"""


def main() -> int:
    """Run both until interrupted; the mesh says where it is."""
    try:
        return _run()
    except KeyboardInterrupt:
        return 0  # before the mesh was there


def paste(credentials: Path) -> str:
    """A line for a shell in any folder that has the mesh generate."""
    path = shlex.quote(str(credentials))
    kept = {name: _KEPT.format(name=name, path=path) for name in ("url", "token")}
    return _PASTE.format(**kept)


def _run() -> int:
    command = [sys.executable, "-m", "examples.llm_demo.upstream"]
    upstream = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert upstream.stdout is not None
        line = next((line for line in upstream.stdout if READY in line), "")
        if not line:
            print("the demo upstream did not start", file=sys.stderr)
            return 1
        url = line.partition(READY)[2].strip()
        print(f"A demo upstream (llama.cpp, weights of chance: no Ollama) is at {url}.")
        print(f"Once the mesh is up, /ollama/ generates with the model {MODEL}, or:")
        kept = ROOT / settings.MESH_VAR_DIR / "credentials.json"
        print(paste(kept), flush=True)
        told = [f"OLLAMA_BASE_URL={url}", f"OLLAMA_MODEL={MODEL}"]
        mesh = subprocess.Popen(
            ["env", *told, sys.executable, "manage.py", "up"], cwd=ROOT
        )
        while True:
            try:
                return mesh.wait()
            except KeyboardInterrupt:
                continue  # Ctrl-C reaches the mesh as well, which ends in order
    finally:
        upstream.terminate()
        upstream.wait()


if __name__ == "__main__":
    sys.exit(main())
