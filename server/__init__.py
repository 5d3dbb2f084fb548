# SPDX-License-Identifier: GPL-3.0-or-later
"""The diffusion server of Krita SD: a torch-free front, worker processes, and the command line over them."""
