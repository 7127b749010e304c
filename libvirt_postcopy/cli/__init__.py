"""``libvirt-postcopy``: everything that is not a command of virsh."""
