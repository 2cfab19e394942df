"""The plan before the work."""

    pass
