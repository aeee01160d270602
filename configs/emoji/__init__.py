"""The cascade at a size that two CPU cores train: 64x64 pictures of the embedded set ``emoji64``."""
