"""Agents that know the mesh by its REST API alone: docs/agents-over-http.md."""
