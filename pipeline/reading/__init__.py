"""What comes in: data sets and models, from files and from the hub."""
