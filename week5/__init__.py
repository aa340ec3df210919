"""The experiments of the week; each is a script that reads as its own protocol."""
