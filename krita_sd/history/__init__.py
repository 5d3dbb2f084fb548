# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that was made, on disk: lossless pictures that carry their recipe, and an index that can be made anew."""
