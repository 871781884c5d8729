"""All Triton kernels under one name; importing this imports Triton, so only `veneer.gpu.dispatch` does, and late."""

from __future__ import annotations

from veneer.gpu import cross_entropy, elementwise, norm, packed, quant


class TritonKernels:
    """The Triton kernels, under the names of the compiled CPU library if both have the function.

    They read contiguous CUDA tensors in float32, bfloat16 or float16 and fill new ones, unless their docstrings say
    otherwise.
    """

    rms_norm_forward = staticmethod(norm.rms_norm_forward)
    rms_norm_backward = staticmethod(norm.rms_norm_backward)
    add_rms_norm_forward = staticmethod(norm.add_rms_norm_forward)
    add_rms_norm_backward = staticmethod(norm.add_rms_norm_backward)
    wide_norm_forward = staticmethod(norm.wide_norm_forward)
    wide_norm_backward = staticmethod(norm.wide_norm_backward)
    swiglu_forward = staticmethod(elementwise.swiglu_forward)
    swiglu_backward = staticmethod(elementwise.swiglu_backward)
    geglu_forward = staticmethod(elementwise.geglu_forward)
    geglu_backward = staticmethod(elementwise.geglu_backward)
    rotate = staticmethod(elementwise.rotate)
    dequantize_4bit = staticmethod(quant.dequantize_4bit)
    packed_product = staticmethod(packed.packed_product)
    cross_entropy_in_place = staticmethod(cross_entropy.cross_entropy_in_place)
