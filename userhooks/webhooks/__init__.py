"""The parts that an app needs: its database, a Sequin client, subscriptions, and the HTTP server. Independent of notebooks and engine."""
