"""`veneer doctor`: what this machine has, which path is used for it and why, and what would make it faster.

`facts` looks, `probe` times and `report` judges: everything that was found stands in one `Facts`, and the advice
follows from that alone, so that what a machine would be told can be known without having it.
"""
