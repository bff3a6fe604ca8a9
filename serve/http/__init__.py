"""HTTP server of the completion API.

server, channel, shutdown   listening socket, waitress's connections, orderly shutdown
start_lines                 lines that the server prints when it starts
app, views, respond         Flask application, its routes, and responses to completion requests
editors_view                settings of editors for this server, which its page shows
security                    access control: API keys, web pages (CORS), host names
request_log                 log of requests
errors, prometheus          error responses and metrics
"""
