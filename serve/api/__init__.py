"""What clients send and read: each request and answer is declared once, one dialect a file. Pure; without Flask."""
