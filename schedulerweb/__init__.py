"""What the services of both tiers share on the web: the server, its guards, requests, answers."""
