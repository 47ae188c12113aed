"""What is kept: the incremental store, and the tables published from it. Never imports torch."""
