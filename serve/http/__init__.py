"""HTTP server of the completion API.

server, channel, shutdown   listening socket, waitress's connections, orderly shutdown
app, views, respond         Flask application, its routes, and responses to completion requests
security                    access control: API keys, web pages (CORS), host names
request_log                 log of requests
errors, prometheus          error responses and metrics
"""
