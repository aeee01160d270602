"""Pure Flax modules: arrays in, arrays out; no mesh, no config, no loss, no files."""
