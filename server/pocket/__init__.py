# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded model: weights that come with the server, and (not installed) how they were made."""
