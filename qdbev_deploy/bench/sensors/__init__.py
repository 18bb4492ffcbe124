"""Readers of what the board says of itself, each behind the same small interface; what cannot be read says why."""
