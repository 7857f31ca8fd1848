"""From messages to HTTP requests and their outcome. Nothing here knows where the messages were read."""
