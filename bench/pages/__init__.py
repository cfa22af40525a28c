"""How long the pages of the dashboard take on a mesh at full size."""
