"""Sockets that accept and authenticate producers, of this machine and of others."""
