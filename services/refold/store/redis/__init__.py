"""The store in Redis or Valkey: the newest of each document."""
