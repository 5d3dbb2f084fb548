# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line's subcommands; `server/__main__.py` reads the arguments and calls one of them."""
