# SPDX-License-Identifier: GPL-3.0-or-later
"""How the embedded model was made: everything from drawing its pictures to measuring its weights."""
