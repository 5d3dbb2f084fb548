# SPDX-License-Identifier: GPL-3.0-or-later
"""What install.py is made of: the Python environment, the torch build, the plugin in Krita's folders.

Standard library only, because it runs before anything is installed. Nothing here prints: progress goes to the
`say` that the caller passes, and a failure is a SetupError whose text is one sentence with the next thing to do.
"""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]


class SetupError(Exception):
    """Set-up cannot go on; the text is a sentence for the person at the keyboard."""
