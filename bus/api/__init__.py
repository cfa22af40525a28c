"""The REST door: clients, agents in any language."""
