"""Mixed work for hours at half of what the cluster can do, and whether anything grows, is lost or is wrong."""
