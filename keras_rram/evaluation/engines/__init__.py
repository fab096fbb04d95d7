"""Engines: what computes the answers of a chip, behind one interface."""
