"""A server of known timing, to judge a client by: bare, without any engine."""
