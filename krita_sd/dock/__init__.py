# SPDX-License-Identifier: GPL-3.0-or-later
"""Widgets only: they draw a `view.View` and call actions. Every widget has an objectName and an accessible name."""
