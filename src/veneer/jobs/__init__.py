"""Jobs: runs that wait for a device, in a store that survives whatever ends, and the workers that carry them out.

A job is the folder of a run with a file `job.json`. The folder is the truth: the store is an index of such files, which
is made anew from them where it is lost or behind.
"""
