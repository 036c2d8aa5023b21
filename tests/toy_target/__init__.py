"""A fourth target, in which torch is the runtime: what docs/adding_a_target.md tells, and that it is true."""
