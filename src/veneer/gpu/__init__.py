"""CUDA: kernels in Triton for operations that torch does in many passes, attention by torch, and the choice between
them.

The kernels are tested where there is no card: in Triton's interpreter they compute on the CPU what torch computes, in
float32 and float16, and Triton compiles them for two generations of cards. What that cannot show is bfloat16, which the
interpreter cuts where a card rounds, and how fast they are: `benchmarks/gpu.py` checks and measures both on a card.
"""
