"""The site's settings, with so few calls a minute that a test can use them up."""

from meshsite.settings import *  # noqa: F403

MESH_API_CALLS_PER_MINUTE = 120
MESH_API_HOT_CALLS_PER_MINUTE = 120
