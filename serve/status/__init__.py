"""State of the server for operators: finished requests, events, clients' reports, and measurements for viewers."""
