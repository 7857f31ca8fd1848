"""From the replication slot to messages: slot, tables, reading, transactions, the LSN that may be confirmed, changes that were lost."""
