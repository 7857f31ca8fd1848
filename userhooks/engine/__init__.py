"""The local engine: a program that speaks Sequin's Management API and delivers webhooks from a replication slot."""
