"""The local scheduler: gives every oversubscription level of one host CPUs of its own."""
