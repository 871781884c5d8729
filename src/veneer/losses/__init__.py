"""Cross-entropy on the supervised positions, without ever holding all logits.

The head is the widest product of a small model (49,152 scores per token for SmolLM2), so it is computed for the
supervised rows only, in chunks. `scores` has the losses of a chunk and their gradients. The steps before and after
depend on the head: one weight (`linear_head`), or a module (`module_head`).
"""
