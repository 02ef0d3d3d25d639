"""The errors that end a command with a message instead of a traceback."""


class EmbedModelsError(Exception):
    """Something the caller can act on; the message says what is wrong and what to do."""


class CheckpointError(EmbedModelsError):
    """A checkpoint that is incomplete, damaged or of an unsupported kind."""


class RegistryError(EmbedModelsError):
    """A registry operation that would break one of the registry's rules."""


class UsageError(EmbedModelsError):
    """A command-line value that cannot be used (exit code 2)."""
