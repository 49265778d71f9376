"""The order of the steps, one module an operation: what a run, a forecast, a verify and a clean do, and when."""
