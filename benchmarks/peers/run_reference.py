"""A run as plain as can be, for others to be measured by: float32, one row at a time, no padding, no trainer.

The loss of a step is the sum of the cross-entropies of its supervised tokens, divided by their number. Runs in the
environment of TRL + PEFT; see losses.py.
"""

from __future__ import annotations

import torch
from measure import CLIP, LEARNING_RATE, Clock, Record, Step, Task, parse_task, peak_rss_mb, read_rows, versions
from measure import write_record as write
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM


def run(task: Task) -> Record:
    """Train from the task's adapter over rows of `input_ids` and `completion_mask`."""
    torch.set_num_threads(task.threads)
    base = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, task.adapter, is_trainable=True).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    rows, clock, steps = read_rows(task.rows), Clock(), []
    clock.start()
    for number in range(task.steps):
        chosen = rows[number * task.rows_per_step : (number + 1) * task.rows_per_step]
        supervised = sum(sum(row["completion_mask"][1:]) for row in chosen)
        loss = 0.0
        for row in chosen:
            tokens, mask = torch.tensor([row["input_ids"]]), torch.tensor(row["completion_mask"][1:], dtype=torch.bool)
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
            share = functional.cross_entropy(logits[mask], tokens[0, 1:][mask], reduction="sum") / supervised
            share.backward()
            loss += float(share.detach())
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        clock.step_ended()
        wall, cpu = clock.spans[-1]
        tokens_done = sum(len(row["input_ids"]) for row in chosen)
        steps.append(Step(wall=wall, cpu=cpu, tokens=tokens_done, supervised=supervised, loss=loss))
    return Record(steps=steps, peak_rss_mb=peak_rss_mb(), versions=versions("peft", "transformers", "torch"))


def main() -> None:
    """Run the task of the command line."""
    task = parse_task(__doc__)
    write(task.result, run(task))


if __name__ == "__main__":
    main()
