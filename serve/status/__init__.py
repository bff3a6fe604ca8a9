"""What operators see: finished requests, events, clients' reports, and measurements while somebody watches."""
