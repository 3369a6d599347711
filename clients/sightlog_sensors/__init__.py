"""Runnable sensors: camera, detector, face and lock. The demo, and the pattern to copy for your own."""
