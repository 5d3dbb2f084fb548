# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that names the version of the plugin and the server."""

VERSION = "0.1.0"
