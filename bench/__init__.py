"""How fast this machine moves tasks, beside what the same server can do bare."""
