"""The command line of the Scaler protocol."""

__version__ = "0.1.0"
