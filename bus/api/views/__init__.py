"""The calls of the REST API, a room for each thing one calls for."""
