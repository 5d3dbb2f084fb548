# SPDX-License-Identifier: GPL-3.0-or-later
"""Krita SD: paints in Krita with a local diffusion server.

Inside Krita, importing this package registers the docker and its actions. Anywhere else (the server shares `wire` and
`geometry`; tests) it does nothing and imports no Qt.
"""

from krita_sd.wire.version import VERSION as __version__

try:
    from krita import Krita as _Krita
except ImportError:
    _Krita = None

if _Krita is not None and _Krita.instance() is not None:
    from krita_sd import plugin as _plugin

    _plugin.register(_Krita.instance())

__all__ = ["__version__"]
