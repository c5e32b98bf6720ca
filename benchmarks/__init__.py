"""Benches: a load generator of real clients (`load`), the data plane alone (`plane`), every budget (`all`)."""
