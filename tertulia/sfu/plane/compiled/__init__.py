"""The decision modules of the plane, compiled. Their one source is beside this package; here are the C types only."""
