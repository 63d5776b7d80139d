"""ssmbench measures what compression does to state-space language models."""

__version__ = "0.1.0"
