# SPDX-License-Identifier: GPL-3.0-or-later
"""Live: the picture follows the pen. Here is what needs no Krita; `canvas/live_*` looks at documents and shows."""
