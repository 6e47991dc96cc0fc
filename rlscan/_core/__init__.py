"""The foundations of every room: protocols, pytrees, scans, spaces, devices and files."""
