"""The live feed's rooms; `bus.feed` is its front."""
