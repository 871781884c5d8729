"""One run on several devices: ranks, lanes, the reduction of gradients, and the launch on one machine."""
