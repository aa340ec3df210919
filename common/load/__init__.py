"""The client: connections, stamps, records."""
