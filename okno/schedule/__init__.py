"""Which tokens run in the next step. Pure: no clock, no engine, no I/O."""
