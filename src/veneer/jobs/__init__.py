"""Jobs: runs that wait for a device, the store that keeps them across crashes, and the workers that run them.

A job is the folder of a run with a file `job.json`. The folder is authoritative: the store is an index of these files,
rebuilt from them when it is lost or out of date.
"""
