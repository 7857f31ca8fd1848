"""Change capture: read the replication slot and turn its transactions into messages for the sinks."""
