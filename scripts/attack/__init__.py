"""Shared parts of scripts/attack_files, attack_kill and attack_server."""
