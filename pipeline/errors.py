"""The one exception that stands for a user's mistake: shown as a sentence, never as a traceback."""


class UserError(Exception):
    """Bad input: a parameter, a file or a server.

    The message names the thing, the value it had, and what is allowed.
    """
