"""Sparse models that are small on disk and fast: packed weights, the layer that holds them, its kernels.

`packing` is the canonical form, `linear` the layer, `prepared` what a device computes with, `kernels` those that
are faster than dense, `quantizer` what lets `from_pretrained` read a packed folder.
"""
