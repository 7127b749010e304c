"""``virsh-postcopy``: virsh's grammar with post-copy that looks after itself."""
