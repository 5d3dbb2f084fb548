# SPDX-License-Identifier: GPL-3.0-or-later
"""Tooltips cannot be told to be plain text: what could be markup is escaped, so that it shows as typed."""

from __future__ import annotations


def escaped(text: str) -> str:
    """Rich text that shows `text`; "" for none."""
    if not text:
        return ""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "<qt>" + plain.replace("\n", "<br>") + "</qt>"
