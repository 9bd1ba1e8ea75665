"""Dataset files, each format a module with a function to read and one to write."""
