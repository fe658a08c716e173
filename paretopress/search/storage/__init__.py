"""Storage of studies: journal, database or gRPC proxy; records, leases and heartbeats of workers that share one."""
