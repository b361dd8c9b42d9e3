"""From configuration files and command lines to checked settings."""
