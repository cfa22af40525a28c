"""What `up` runs in a folder: children, the web server, first credentials."""
