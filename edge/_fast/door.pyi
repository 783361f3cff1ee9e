# Nothing of it is Python's to call: the engine uses the C functions in door.pxd.
