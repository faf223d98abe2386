"""The conformance suite of the Scaler protocol."""
