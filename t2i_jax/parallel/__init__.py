"""Where arrays live: the device mesh and the table of sharding rules."""
