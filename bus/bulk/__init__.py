"""Bulk replay behind `bus.replays`: its letters, its record, its pace, its driver."""
