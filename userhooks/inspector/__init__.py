"""The inspector: receives webhooks, keeps them byte for byte, and shows them to people, to scripts and to notebooks."""
