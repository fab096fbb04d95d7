"""Populations of chips: results, statistics, stop rule."""
