"""The errors that end a command with a message instead of a traceback."""


class EmbedModelsError(Exception):
    """Something the caller can act on; the message says what is wrong and what to do."""


class CheckpointError(EmbedModelsError):
    """A checkpoint that is incomplete, damaged or of an unsupported kind."""


class RegistryError(EmbedModelsError):
    """A registry operation that would break one of the registry's rules."""


class CorpusError(EmbedModelsError):
    """A file of texts that is missing, empty or malformed."""


class RecipeError(EmbedModelsError):
    """A recipe that is unknown, or says something that cannot be done."""


class ValidationError(EmbedModelsError):
    """A version that cannot be validated, or that misses a threshold of its recipe."""


class UsageError(EmbedModelsError):
    """A command-line value that cannot be used (exit code 2)."""
