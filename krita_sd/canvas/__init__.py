# SPDX-License-Identifier: GPL-3.0-or-later
"""The only code that touches Krita: documents to buffers (capture) and buffers to layers (place).

What actions may use: `capture.describe`, `capture.Capture`, `place.Placement`, `insert.open_as_document`,
`watch.pen`, `overlay.Frame` and `guard.Guard`.
"""
