"""The machine that veneer runs on: devices, cores, memory, and its limits."""
