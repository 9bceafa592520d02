"""Processes that hold a device, started by `accelerate launch`: each reads one settings file and Parquet, and writes parts."""
