# SPDX-License-Identifier: GPL-3.0-or-later
"""The front: accepts connections, keeps sessions, queue, inputs and results, feeds the workers. Never imports torch."""
