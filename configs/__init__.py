"""One short Python file a stage: what is trained, on which data, for how long."""
