"""QEMU's monitor: typed verbs, and the ways there."""
