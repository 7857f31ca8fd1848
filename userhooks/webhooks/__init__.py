"""The parts that an app needs: its database, a Sequin client, subscriptions, and the HTTP server. It does not depend on the notebooks or
the engine.
"""
