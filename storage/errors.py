"""The two ways a store can refuse: the caller named something unusable, or the disk holds something broken."""


class StorageError(Exception):
    """Base of every error raised by `storage`; the message is one sentence a user can act on."""


class UnusableInput(StorageError):
    """A path, id or query given by the user cannot be used."""


class BrokenArtifact(StorageError):
    """A file on disk differs from what its manifest lists."""
