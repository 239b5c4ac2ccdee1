"""Generic solvers, one file each; every package is imported when its solver is called."""
