"""What an app needs: its database, a client of Sequin, subscriptions, and the HTTP server. Nothing here knows notebooks or the engine."""
