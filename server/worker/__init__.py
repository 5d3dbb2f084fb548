# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs inside a worker process: takes units from the pipe, prepares pictures and masks, drives the engine."""
