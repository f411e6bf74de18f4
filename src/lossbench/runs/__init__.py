"""Runs, their identity, and their grouping into packs."""
