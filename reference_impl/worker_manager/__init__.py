"""The reference worker manager: it starts and stops workers on this machine as the scheduler wishes (SPEC 8.4)."""
