"""Backends behind one interface; build, precision guard, parity, bundles."""
