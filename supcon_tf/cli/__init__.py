"""Command-line programs: flags from configurations, and one way to end."""
