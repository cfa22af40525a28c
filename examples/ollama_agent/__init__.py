"""An agent that asks a model, through the same rooms as the gateway."""
