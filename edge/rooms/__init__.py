"""The owner's side of a room: what goes into its logs. Pure: no I/O, and time is an argument."""
