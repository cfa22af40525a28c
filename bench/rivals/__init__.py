"""The same work given to this mesh and to other queues, on one server, taking turns."""
