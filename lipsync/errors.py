"""Errors that the user can act on: shown as one line on stderr, exit code 2, no traceback."""


class UserError(Exception):
    """The input is at fault. The message names the file or setting, what is wrong and what to do."""


class MediaError(UserError):
    """A video, image or audio file cannot be read or written."""


class NoFaceError(UserError):
    """No face was found where one is needed."""


class CheckpointError(UserError):
    """A weight file is missing, damaged, unsafe or of the wrong kind."""


class DataError(UserError):
    """A data set, file list or preprocessed clip is missing or inconsistent."""


class ConfigError(UserError):
    """A setting is missing, unknown or contradicts another one."""


class NotScorableError(UserError):
    """A clip, or one kind of score of it, cannot be had; the message says why. Never turned into a number."""
