"""The exceptions that mean: the user can put this right."""


class UserError(ValueError):
    """A wrong setting, file or folder; the message is one line.

    It says what was wrong, the value received and what to do. The scripts print it and exit with
    status 2; nothing has been written when it is raised before a run begins.
    """


class StorageError(UserError):
    """Files that cannot be written or read, as on a full disk: no fault of the settings."""
