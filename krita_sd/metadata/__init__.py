# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes in picture files and documents: standard library only, for files of strangers."""
