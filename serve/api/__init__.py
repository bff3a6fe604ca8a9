"""Requests and responses of every API dialect, independent of Flask. Each module holds one API."""
