"""The order of the steps of a run, a forecast, a verification and a clean: one module for each."""
