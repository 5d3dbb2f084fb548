# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: ratios of two arms interleaved in one run. Not part of the ordinary tests; no number here fails one.

python -m tests.benchmarks [--rows 2,7] [--rounds 7] [--threads 1] [--device cuda] [--sizes tiny] [--json FILE]
"""
