"""QEMU and libvirt of several Debian releases, side by side in a cache outside the tree.

``known`` names the releases, ``aptconf`` learns mirror and key from the machine's own apt, ``recipe`` turns both into a
command for mmdebstrap, ``cell`` runs it where nothing can be left behind, ``cache`` and ``root`` say what is there,
``fetch`` joins them, ``wrapper`` makes the executable that runs such a QEMU from the host, ``main`` is the program.
"""
