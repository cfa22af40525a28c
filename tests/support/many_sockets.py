"""The site's settings, with more sockets for one token than a test opens."""

from meshsite.settings import *  # noqa: F403

MESH_FEED_SOCKETS_PER_USER = 2_000
