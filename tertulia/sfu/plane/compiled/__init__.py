"""The decisions of the plane, compiled as one module. Their sources are beside this package; here are C types only."""
