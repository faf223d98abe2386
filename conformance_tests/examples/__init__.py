"""Small implementations that show how the suite judges one."""
