# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where the version of the product is written."""

VERSION = "0.1.0"
