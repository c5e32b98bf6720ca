"""Tertulia: a self-hosted conferencing backend that LiveKit clients connect to unmodified."""

__version__ = "0.1.0"
