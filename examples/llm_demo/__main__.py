"""`make demo-llm`: the mesh of this folder, with a demo upstream behind its gateway."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from examples.llm_demo.upstream import MODEL, READY

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Run both until interrupted; the mesh says where it is."""
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
        print(f"Once the mesh is up, /ollama/ generates with the model {MODEL}.")
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
