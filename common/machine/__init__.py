"""Devices, topology, ceilings, monitor, environment."""
