"""Several processes that do one job: who they are, where they meet, and which of them is gone.

- `Ranks` (`ranks`): the place of this process among them, from its launcher; `ONE_RANK` is a process without others.
- `Group` (`group`): exchanges texts and tensors with them; made by `Meeting`, a context, as `Together` or `Alone`.
- `GroupShare` (`group_share`): the items of a task that this process computes; a single process has
  `veneer.generation.share.WHOLE_SHARE`.
"""
