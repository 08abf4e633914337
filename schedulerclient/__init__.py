"""What people and programs drive a cluster with: a typed library and a command line."""
