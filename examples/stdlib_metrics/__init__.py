"""The demo: every file of the standard library is a task, its metrics the result."""
