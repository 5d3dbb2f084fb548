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
    # The language first: some modules keep sentences from their import on.
    from krita_sd.qt import languages as _languages
    from krita_sd.text import use as _use
    from krita_sd.translations import catalogue as _catalogue

    _use(_catalogue(_languages()))

    from krita_sd import plugin as _plugin

    _plugin.register(_Krita.instance())

__all__ = ["__version__"]
