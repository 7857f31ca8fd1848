"""The inspector: receives webhooks, stores them byte for byte, and shows them to people, scripts, and notebooks."""
