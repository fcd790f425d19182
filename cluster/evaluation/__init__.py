"""Sampling and judging for an evaluation, its store, its statistics, tables and pictures. Commands come
in."""
