"""The worker that Prometheus scrapes: a server for strangers, kept apart from the engine that it tells of."""
