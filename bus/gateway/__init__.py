"""The rooms of the gateway to Ollama; `bus.ollama` is its front."""
