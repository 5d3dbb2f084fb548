# SPDX-License-Identifier: GPL-3.0-or-later
"""Features: each hooks the denoising loop for one job and undoes itself."""
