"""From the replication slot to messages: reading, transactions, the LSN that may be confirmed, changes that were lost."""
