"""Who may use the server: its names, web pages, keys. Knows nothing of models or sockets.

authority, hosts   under which names the server is asked (DNS rebinding)
origins            which web pages may ask (CORS)
keys               API keys
hooks              the three, before each request of the Flask application
"""
