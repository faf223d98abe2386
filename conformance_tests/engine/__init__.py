"""The conformance engine: scenarios in, verdicts out. It knows the protocol, and no implementation of it."""
