"""The agent runtime's rooms; `bus.agent` is its front."""
