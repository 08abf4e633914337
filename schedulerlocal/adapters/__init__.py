"""What talks to the world: files, ``/sys``, HTTP, libvirt."""
