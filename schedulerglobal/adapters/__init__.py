"""What connects the global scheduler to the world: routes, hosts, stores."""
