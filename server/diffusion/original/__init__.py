# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files of the transformer families (SD3, Flux 1, Chroma, Z-Image, Qwen-Image) in the layouts that people have.

transformers: the denoiser's configuration and names. encoders, autoencoders: the parts beside it. tokenizers: what no
file holds. load: all of it put together.
"""
