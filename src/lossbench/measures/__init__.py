"""Measurements of K members: probes at logged steps, metrics of whole splits, instruments."""
