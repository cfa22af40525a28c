"""A demo upstream for the gateway: a real engine, a tiny model, Ollama's API shape."""
