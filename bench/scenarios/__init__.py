"""The mesh with much to do, much in its keys, or much in its handlers."""
