"""One run on several devices: ranks, lanes, the sum of gradients, and the launch on one machine."""
