"""libvirt: the only package that imports it."""
