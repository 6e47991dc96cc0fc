"""What every room stands on: types, pytrees, scans, spaces, devices, files."""
