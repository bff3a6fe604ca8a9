"""The editors' clients: how they read answers, drivers that run them, and the matrix of what they can."""
